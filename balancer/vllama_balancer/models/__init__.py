"""Installed models: their names, their weights on disk, and where those come from.

A name goes through resolve.py, which returns a model of the store or a source to install it from. Downloads and
conversions run as child processes, so that they can be killed, and their libraries never reach the balancer.

    resolve          Resolver: from a name, path or hub id to a stored model, installing it if need be
    table            the known models (models.toml): names of Ollama and their repositories
    store            the model store on disk: manifests and directories of weights
    manifest         StoredModel, and its JSON form on disk
    catalog          every model that a request can name, from the store and from the workers
    management       pull, delete, copy and create, for the gateway
    description      what a model's own files say of its sizes and capabilities

    job              runs a child process and reads its progress; Reporter is its other end
    download         `python -m vllama_balancer.models.download`: from the Hugging Face hub into the store
    hub              which files of a repository are needed, and the hub's errors in our words
    gguf_conversion  `python -m vllama_balancer.models.gguf_conversion`: from a GGUF file to safetensors
    disk_space       refuses what does not fit into memory or onto the disk
    lines            the progress of an installation on a terminal or in a log
    errors           the errors of all of it
    __main__         `python -m vllama_balancer.models resolve NAME` and `list`
"""
