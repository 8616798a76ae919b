"""Small worlds with known truth, and helpers, for the tests and for `bench`; imports no test."""
