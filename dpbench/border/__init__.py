"""The border: processes that hold code nobody vouches for, and the messages that cross.

`wire` carries messages, `nursery` makes fresh processes, `calls` makes functions of what lies beyond, `host` talks to
a process; `crowd` hides victims among queries.
"""
