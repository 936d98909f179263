"""Gemma's turns as the Jinja template that other programs render conversations with."""

# The same text as `keras_gemma.text.turns` makes of the same messages, and the same refusals.
# `{%-` and `-%}` keep the template's own line breaks out; those of the turns are in the strings.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set turns = messages -%}
{%- set preface = '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- if messages[0]['content'] -%}
        {%- set preface = messages[0]['content'] + '\\n\\n' -%}
    {%- endif -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- set speaker = 'model' if turn['role'] == 'assistant' else turn['role'] -%}
    {%- if speaker != ('user' if loop.index0 % 2 == 0 else 'model') -%}
        {{- raise_exception('User and model speak in turn, and the user begins.') -}}
    {%- endif -%}
    {{- '<start_of_turn>' + speaker + '\\n' -}}
    {{- (preface if loop.first else '') + turn['content'] -}}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""
