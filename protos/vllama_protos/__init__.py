"""The wire contract: protos of package vllama.v1 and the stubs generated from them."""
