"""Load balancers: what the daemon asks of one (`protocol`), and one module for each kind.

`haproxy` drives a running HAProxy through its runtime API, `gateway` the gateway process through its control socket.
An adapter writes, reads back what it wrote, and says `BalancerUnavailable` when the two differ. It must never decide
who serves, touch a server that is not ours, call a server up before the balancer's own check has passed, or restart
or reload anything.
"""
