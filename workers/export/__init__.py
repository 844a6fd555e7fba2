"""A checkpoint -> a folder that other libraries load, without Tandem.

source.py                         what is exported; towers.py: a tower in the libraries' terms
tokenizer.py, images.py           what prepares inputs, as transformers has it
two_towers.py                     CLIPModel and SiglipModel
transformers_format.py, sentence_transformers_format.py, safetensors_format.py
                                  a layout each; FORMATS maps the option to it
usage.py, card.py                 the model card and the Python in it
write.py                          the folder, at once or not at all
"""
