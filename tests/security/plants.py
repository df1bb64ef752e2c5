"""Files and settings that run code, change the model or never end if a library obeys them."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from tests.security.layouts import edit_configs

CANARY = "import pathlib\npathlib.Path(r'{mark}').touch()\nclass Thing: pass\n"
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "a/b"}


class Unpickled:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (Path(self.mark),))


def add_adapter(folder, **options):
    """Add an adapter, except where the layout has one."""
    if not (folder / "adapter_config.json").exists():
        (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | options))
        config = folder / "config.json"
        dim = json.loads(config.read_text()).get("hidden_size", 64) if config.is_file() else 64
        key = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
        shapes = {"A": (2, dim), "B": (dim, 2)}
        tensors = {key.format(n, half): torch.ones(shape) for n in range(2) for half, shape in shapes.items()}
        save_file(tensors, folder / "adapter_model.safetensors")


def add_adapter_that_imports(folder, mark):
    add_adapter(folder, megatron_config={"tensor_model_parallel_size": 1}, megatron_core="megatron.canary")


def add_adapter_that_changes(folder, mark):
    add_adapter(folder)


def add_adapter_that_hangs(folder, mark):
    add_adapter(folder, target_modules="(([a-z_.0-9]+)+)+X")


def add_modules(folder, mark):
    for name in ("modeling_canary", "tokenization_canary", "configuration_canary", "torch", "sitecustomize"):
        (folder / f"{name}.py").write_text(CANARY.format(mark=mark))
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(CANARY.format(mark=mark))
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoImageProcessor")
    names = dict.fromkeys(classes, "modeling_canary.Thing") | {"AutoTokenizer": ["modeling_canary.Thing"] * 2}
    edit_configs(folder, auto_map=names, custom_generate="custom_generate", trust_remote_code=True)


def add_pickles(folder, mark):
    names = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl", "x.ckpt")
    for name in names:
        if not (folder / name).exists():
            torch.save({"x": Unpickled(mark)}, folder / name)


def add_templates(folder, mark):
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "default.jinja").write_text(template)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    edit_configs(folder, chat_template=template)


def add_generation(folder, mark):
    settings = {"temperature": 9.0, "do_sample": True, "num_beams": 50, "assistant_model": "a/b", "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Thing"}))


def choose_load_options(folder, mark):
    edit_configs(
        folder,
        attn_implementation="flex_attention",
        _attn_implementation="canary/kernel",
        _attn_implementation_internal="canary/kernel",
        experts_implementation="canary/kernel",
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        compression_config={"quant_method": "compressed-tensors"},
        use_kernels=True,
        attribute_map={"canary": "quantization_config"},
        canary={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )


def name_other_files(folder, mark):
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    save_file({"x": torch.ones(1)}, outside / "model.safetensors")
    (outside / "tokenizer.1.0.0.json").write_text("{}")
    edit_configs(
        folder,
        transformers_weights="../outside/model.safetensors",
        gguf_file="../outside/x.gguf",
        tokenizer_file=str(outside / "tokenizer.1.0.0.json"),
        vocab_file=str(outside / "tokenizer.1.0.0.json"),
        fast_tokenizer_files=["../outside/tokenizer.1.0.0.json"],
        _name_or_path="owner/elsewhere",
        tokenizer_name="owner/elsewhere",
    )


def add_images(folder, mark):
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch {mark}) (w) file closefile\n%%EOF\n"
    for name in ("preview.png", "x.eps"):
        (folder / name).write_text(program)


def name_code(folder, mark):
    edit_configs(folder, _target_="os.system", command=f"touch {mark}", plugins={"connector": "canary"})
    manifest = folder / "tinyvid.yaml"
    if manifest.exists():
        content = yaml.safe_load(manifest.read_text())
        manifest.write_text(yaml.safe_dump(content | {"plugins": {"connector": "canary", "llm": f"touch {mark}"}}))


def add_regular_expressions(folder, mark):
    pattern = {"Regex": "(([a-z]+)+)+[0-9]$"}
    edit_configs(folder, _keys_to_ignore_on_load_unexpected=pattern["Regex"], target_modules=pattern["Regex"])
    file = folder / "tokenizer.json"
    if file.exists():
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pre_tokenizer": split}))


ADAPTERS = (add_adapter_that_imports, add_adapter_that_changes, add_adapter_that_hangs)
FILES = (add_pickles, add_generation, add_images)
SETTINGS = (add_templates, choose_load_options, name_other_files, name_code)
PLANTED = (*ADAPTERS, *FILES, *SETTINGS, add_modules, add_regular_expressions)
TOGETHER = {
    **{plant.__name__: [plant] for plant in (*ADAPTERS, add_modules)},
    "files": FILES,
    "settings": SETTINGS,
    "regular_expressions": [add_regular_expressions],
}
