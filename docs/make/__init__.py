"""What `nox -s docs` does before Sphinx: every generated part of the pages is written again from the repository itself.

A page of docs/ is Markdown that people write. Between `<!-- generated: NAME -->` and `<!-- end -->` stands what `BLOCKS` makes of
recipes, certificates, the command line's parser and the like; nobody edits it by hand, and a test is red where it is not current.
"""
