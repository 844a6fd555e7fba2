"""A model of someone else, ready to be evaluated beside our own, treated as its authors meant.

    pretrained = load_pretrained("openai/clip-vit-base-patch32", data, ("image", "text"))

load.py     a folder or a name on the hub, and the spec's columns -> towers, tokenizers, columns as they fit the model
images.py   its image processor: size, crop, filter, normalisation
texts.py    its tokenizer, context length and prompts
"""
