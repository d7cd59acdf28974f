"""The endpoints of the mkinf API v0.1, by subject, and the emulator's own under `/_emulator`.

A handler reads a call, asks the books, and answers in the API's shapes. It never waits and never
touches a machine: what takes time is planned by the lifecycle.
"""
