"""Quadratic programs: an interior point finds the active rows, one linear system gives the answer."""
