"""Make README's picture: a LoRA of rank 3 that has learned a planted change of rank 3."""

from pathlib import Path

from lora_lab import LinearWithLoRA, create_planted_task, set_seed, train_model
from lora_lab.figures import lora_picture

task = create_planted_task(n_samples=1024, in_features=48, out_features=48, rank=3)
set_seed(0)
layer = LinearWithLoRA(task.pretrained, rank=3)
print(train_model(layer, task.X, task.y, epochs=300, lr=0.02))
picture = lora_picture(layer.linear.weight.T, layer.lora.A, layer.lora.B)
Path(__file__).with_name("lora.png").write_bytes(picture.png())
