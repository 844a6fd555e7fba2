"""`tandem report`: run directories -> one HTML file that needs nothing else.

write.py      the command: reads, looks, writes; leave.py: what a run writes at its end, without its model
record.py     a run directory -> `RunRecord`, by the ledger; story.py: attempts, and what the time went into
look.py       the newest checkpoint and a few samples -> `Look`: neighbours, map, hard negatives (torch)
              hard.py: the last; geometry.py and thumbnail.py are arithmetic
page.py       both -> the page; curves.py, looks.py, timeline.py and facts.py are its sections
charts.py     lines -> SVG with a table behind it; bars.py and tables.py likewise; scale.py is their arithmetic
html.py       HTML that is escaped by construction
report.css    light, dark, narrow and on paper; report.js: what the charts tell under the pointer
"""
