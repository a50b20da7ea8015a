"""`Chain*` methods: blocks, tipsets, messages, objects, head changes."""
