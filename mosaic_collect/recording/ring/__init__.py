"""Where steps lie until they are committed."""
