"""One trial's work in plain torch: data -> exact budget -> model -> loop -> evaluation, with FLOPs counted beside it.

Reading order: `corpus` and `tokenizer` make text into numbers, `data` keeps them, `order` says which targets a budget
trains on, `feed` cuts them into batches, `model` and `optim` build what learns, `session` is one trial's course.
"""
