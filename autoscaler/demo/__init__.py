"""`autoscaler demo`: the whole job on one machine, with an emulated cloud and real everything else.

It starts the emulator, the gateway and the daemon as processes, replays traffic against the gateway, takes stock away
and kills a machine on the way, and judges what clients saw. It has no way into the daemon that an operator lacks.
"""
