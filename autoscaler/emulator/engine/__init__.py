"""An emulated model server: the interfaces of vLLM, SGLang, llama.cpp and embedding servers.

It queues, batches, fills its KV cache and takes as long as a GPU of the named type would, by a
roofline of its own; what it writes is nonsense, what it measures is real. A process of its own
(`python -m autoscaler.emulator.engine`), as light as can be: a whole fleet of them shares one
computer. It must never import the daemon's side, whose estimates it is there to contradict.

A token is four characters. `ignore_eos` with `max_tokens` fixes an answer's length; the headers
`x-emulated-prompt-tokens`, `x-emulated-cached-tokens` and `x-emulated-output-tokens` say lengths that
the text does not have, so that a load of long prompts needs no long texts.
"""
