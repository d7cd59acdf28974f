"""An emulated model server: the interfaces of vLLM, SGLang, llama.cpp and embedding servers.

It queues, batches, fills its KV cache and takes as long as a GPU of the named type would, by a
roofline of its own; what it writes is nonsense, what it measures is real. A process of its own
(`python -m autoscaler.emulator.engine`), as light as can be: a whole fleet of them shares one
computer. It must never import the daemon's side, whose estimates it is there to contradict.
"""
