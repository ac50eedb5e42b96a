"""Assets of the built-in demo and the code that makes its motion."""
