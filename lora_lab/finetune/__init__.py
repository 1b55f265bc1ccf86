"""A script for your own text and model: ``python -m lora_lab.finetune text my_diary.txt``, or under ``torchrun``.

transformers opens the model, PEFT puts LoRA in and writes the file, torch does the rest. ``reading`` makes pieces of a
text, ``team`` is the processes that train together, ``checkpoint`` what an interrupted training goes on from, ``loop``
the training, ``launch`` starts several processes, and ``__main__`` is the command line.
"""
