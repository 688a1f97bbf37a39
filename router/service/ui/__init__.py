"""Pages to look into a search, for a person with a browser. Imported where they are served only.

``routes`` says which page is where, ``sessions`` who is logged in, ``pages`` renders templates. ``search`` shows a
search as it goes, whose candidates ``tree`` keeps; ``policy`` and ``calls`` are the other two views. Everything that
they do is a call like any other, with the same middleware around it.
"""
