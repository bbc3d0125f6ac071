"""Ridge regression in closed form."""
