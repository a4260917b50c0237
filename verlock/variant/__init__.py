"""What a variant is, read from the repository: recipe, locks, digest; and what of it lies in a prefix or in certificates/.

In: recipes/, locks/, certificates/, a prefix's verlock.json and RECORDs. Out: `chosen.Chosen`, the one object
that every step is given.
"""
