"""Multinomial logistic regression by Newton's method."""
