"""The roof: calls the stages in sequence for a person."""
