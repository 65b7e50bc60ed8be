"""The pages of a CA: status, tree, entry, search. Rendered here, without any script in the browser.

`drawing` makes coordinates, `describe` reads entries, `http` answers requests with the templates beside it.
"""
