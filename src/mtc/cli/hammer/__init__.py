"""`mtc hammer`: loads a log, a witness, a mirror or a CA's interface, and checks every answer.

`figures` counts, `load` sends and paces, `live` shows, `synthetic` is a log made up for the purpose; `reading`,
`witness`, `mirror` and `issuing` are what can be loaded.
"""
