"""What a person or a program sees of a run while it runs.

    with view_of(Show.TEXT, name) as view:      choose.py: which one, by what was asked for and where it goes
        view.event(event)                       what happened
        view.progress(metrics, total_steps)     how far it is
    view.results(status, title)                 how it ended

view.py      `View`, the interface; it has an implementation a file:
lines.py     a line an event, and one of progress every few seconds: for pipes, files, and a job's log
live.py      a panel that is drawn anew each second, with the events above it: for terminals
json_lines.py  a JSON object a line; quiet.py  nothing but the end
picture.py   what events and metrics say of a run so far: pure; panel.py draws it; pace.py: rates, and time that is left
console.py   a console whose end takes no job with it
"""
