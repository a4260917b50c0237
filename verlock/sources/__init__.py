"""What is not installed as it was released: git commits, patches, and the wheels that are built from them.

In: a recipe's [source] and [[patch]]. Out: a verified git store, patched files with their hashes, a wheel that is the same on
every machine.
"""
