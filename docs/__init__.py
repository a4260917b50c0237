"""The documentation: pages in Markdown, and in `make/` what writes their generated parts."""
