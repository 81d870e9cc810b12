"""The border: plug-in code that nobody vouches for runs in processes of its own, and only tensors cross.

`wire` carries messages, `nursery` makes fresh processes, `guest` is what runs in one, `host` talks to it; `remote`
holds the stand-ins that the engine handles in place of plug-ins: defenses and attacks as if they were here.
"""
