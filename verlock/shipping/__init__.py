"""Prefix and locks -> elsewhere: the forms that other tools read, the list of what is on disk, and who finds fault with it."""
