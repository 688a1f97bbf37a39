"""Web pages that show a search, the policy and recorded calls. Imported only where they are served.

``routes`` maps addresses to pages, ``sessions`` knows who is logged in, ``pages`` renders templates. ``search`` shows a
search while it runs, and ``tree`` keeps its candidates; ``policy`` and ``calls`` are the other two views. Each page is
a call like any other, with the same middleware around it.
"""
