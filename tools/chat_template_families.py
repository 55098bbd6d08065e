"""Chat templates in the manner of each family of models: the marks that they put around messages are theirs, the words and the
structure are ours. Names of special tokens are written as the models' tokenizers have them."""

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""

LLAMA_2 = """{% if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] -%}
    {%- set opening = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' -%}
{% else %}
    {%- set rest = messages -%}
    {%- set opening = '' -%}
{% endif %}
{%- for turn in rest -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Turns of user and assistant must alternate, see turn ' ~ loop.index) -}}
    {%- endif -%}
    {%- set text = opening + turn['content'] if loop.first else turn['content'] -%}
    {%- if turn['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + text.strip() + ' [/INST]' -}}
    {%- elif turn['role'] == 'assistant' -%}
        {{- ' ' ~ text | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}"""

LLAMA_3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""

LLAMA_31_TOOLS = """{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- set date_string = date_string if date_string is defined else strftime_now('%d %b %Y') %}
{%- if messages and messages[0].role == 'system' %}
    {%- set preamble = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set preamble = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{% endif %}
{{- 'It is ' + date_string + '.\\n\\n' + preamble + '<|eot_id|>' }}
{%- if tools is not none and tools_in_user_message %}
    {%- if messages | length == 0 %}
        {{- raise_exception('Tools need a first message of the user') }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nYou may call:\\n\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- '\\n\\n' }}
    {%- endfor %}
    {{- messages[0].content | trim + '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' or message.role == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('One call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}' }}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN_25 = """{%- set has_system = messages[0].role == "system" %}
{{- "<|im_start|>system\\n" ~ (messages[0].content if has_system else "You help.") }}
{%- if tools %}
    {{- "\\n\\n# Tools\\n\\nThese may be called:\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" ~ tool | tojson }}{%- endfor %}
    {{- "\\n</tools>" }}
{%- endif %}
{{- "<|im_end|>\\n" }}
{%- for message in (messages[1:] if has_system else messages) %}
    {%- if message.role != "tool" %}
        {{- "<|im_start|>" + message.role }}
        {%- if message.content %}{{- "\\n" + message.content }}{%- endif %}
        {%- for one in message.tool_calls | default([], true) %}
            {%- set one = one.function if one.function is defined else one %}
            {{- '\\n<tool_call>\\n{"name": "' ~ one.name ~ '", "arguments": ' }}
            {{- one.arguments | tojson }}
            {{- "}\\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\\n" }}
    {%- else %}
        {%- if loop.previtem is undefined or loop.previtem.role != "tool" %}{{- "<|im_start|>user" }}{%- endif %}
        {{- "\\n<tool_response>\\n" + message.content + "\\n</tool_response>" }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- "<|im_end|>\\n" }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
{%- endif %}
"""

QWEN_3 = """{%- set state = namespace(question=-1) %}
{%- for message in messages[::-1] %}
    {%- if state.question < 0 and message.role == "user" and message.content is string and not message.content.startswith("<tool_response>") %}
        {%- set state.question = loop.revindex0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else "" %}
    {{- "<|im_start|>" + message.role + "\\n" }}
    {%- if message.role == "assistant" %}
        {%- set thoughts = "" %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif "</think>" in content %}
            {%- set pieces = content.split("</think>") %}
            {%- set thoughts = pieces[0].split("<think>")[-1].strip("\\n") %}
            {%- set content = pieces[-1].lstrip("\\n") %}
        {%- endif %}
        {%- if loop.index0 > state.question and (thoughts or loop.last) %}
            {{- "<think>\\n" + thoughts.strip("\\n") + "\\n</think>\\n\\n" }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {{- "\\n<tool_call>\\n" ~ {"name": call.function.name, "arguments": call.function.arguments} | tojson ~ "\\n</tool_call>" }}
        {%- endfor %}
    {%- else %}
        {{- content }}
    {%- endif %}
    {{- "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- "<think>\\n\\n</think>\\n\\n" }}{%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0].role == 'system' -%}
    {%- set system, turns = messages[0].content, messages[1:] -%}
{%- else -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- set users = turns | selectattr('role', 'equalto', 'user') | list -%}
{{- bos_token -}}
{%- for turn in turns -%}
    {%- if turn.role == 'user' -%}
        {%- if tools is not none and turn == users[-1] -%}
            {{- '[AVAILABLE_TOOLS] [' -}}
            {%- for tool in tools -%}
                {%- set tool = tool.function -%}
                {{- '{"type": "function", "function": {' -}}
                {%- for key, value in tool.items() if key != 'return' -%}
                    {%- if value is string -%}
                        {{- '"' + key + '": "' + value + '"' -}}
                    {%- else -%}
                        {{- '"' + key + '": ' + value | tojson -}}
                    {%- endif -%}
                    {%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
                {%- endfor -%}
                {{- '}}' -}}
                {%- if not loop.last -%}{{- ', ' -}}{%- else -%}{{- ']' -}}{%- endif -%}
            {%- endfor -%}
            {{- '[/AVAILABLE_TOOLS]' -}}
        {%- endif -%}
        {%- if loop.last and system is defined -%}
            {{- '[INST] ' + system + '\\n\\n' + turn.content + '[/INST]' -}}
        {%- else -%}
            {{- '[INST] ' + turn.content + '[/INST]' -}}
        {%- endif -%}
    {%- elif turn.tool_calls is defined and turn.tool_calls is not none -%}
        {{- '[TOOL_CALLS] [' -}}
        {%- for call in turn.tool_calls -%}
            {{- call.function | tojson -}}
            {%- if call.id is not defined or call.id | length != 9 -%}
                {{- raise_exception('A call needs an id of nine characters') -}}
            {%- endif -%}
            {{- ', "id": "' + call.id + '"}' -}}
            {%- if not loop.last -%}, {% endif -%}
        {%- endfor -%}
        {{- ']' + eos_token -}}
    {%- elif turn.role == 'assistant' -%}
        {{- ' ' + turn.content | trim + eos_token -}}
    {%- elif turn.role == 'tool' -%}
        {{- '[TOOL_RESULTS] {"content": ' + turn.content | string + ', "call_id": "' + turn.tool_call_id + '"}[/TOOL_RESULTS]' -}}
    {%- else -%}
        {{- raise_exception('No such role here: ' + turn.role) -}}
    {%- endif -%}
{%- endfor -%}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must go user, assistant, user, assistant...") }}
    {%- endif -%}
    {%- set role = "model" if turn['role'] == 'assistant' else turn['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else "") }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for part in turn['content'] -%}
            {%- if part['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}
                {{ part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("No such content") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

PHI_3 = """{% for message in messages %}{% if message['role'] in ['system', 'user'] %}{{'<|' + message['role'] + '|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{{ '<|assistant|>
' if add_generation_prompt else eos_token }}"""

PHI_4 = """{% for message in messages %}{% if message['role'] == 'system' and tools %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + tools | tojson + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|im_start|>' ~ message['role'] ~ '<|im_sep|>' ~ (message['content'] or '') ~ '<|im_end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + (message['content'] or '') + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(first=true, in_outputs=false, system='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- if ns.first -%}
            {%- set ns.system = ns.system + message['content'] -%}
            {%- set ns.first = false -%}
        {%- else -%}
            {%- set ns.system = ns.system + '\\n\\n' + message['content'] -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{{- bos_token }}{{ ns.system }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- '<｜User｜>' + message['content'] -}}
    {%- elif message['role'] == 'assistant' and message['tool_calls'] -%}
        {%- for call in message['tool_calls'] -%}
            {%- if loop.first -%}
                {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' -}}
            {%- else -%}
                {{- '\\n' -}}
            {%- endif -%}
            {{- '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] | tojson + '\\n```<｜tool▁call▁end｜>' -}}
        {%- endfor -%}
        {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' -}}
    {%- elif message['role'] == 'assistant' -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}
            {%- set content = (content.split('</think>') | last) -%}
        {%- endif -%}
        {{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' -}}
    {%- elif message['role'] == 'tool' -%}
        {%- if ns.in_outputs -%}
            {{- '\\n<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' -}}
        {%- else -%}
            {{- '<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' -}}
            {%- set ns.in_outputs = true -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if ns.in_outputs -%}{{- '<｜tool▁outputs▁end｜>' -}}{%- endif -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}"""

COMMAND_R = """{{ bos_token }}
{%- macro type_of(spec) -%}
    {%- if spec.type == 'array' -%}
        List[{{ type_of(spec['items']) if spec['items'] is defined else 'Any' }}]
    {%- elif spec.type == 'object' -%}
        Dict[{%- for name, inner in (spec.properties or {}).items() %}{{ name }}: {{ type_of(inner) }}{{ ', ' if not loop.last }}{%- endfor %}]
    {%- else -%}
        {{ {'string': 'str', 'integer': 'int', 'number': 'float', 'boolean': 'bool'}.get(spec.type, 'Any') }}
    {%- endif -%}
{%- endmacro -%}
{%- macro signature(tool) %}
def {{ tool.name }}(
{%- for name, spec in tool.parameters.properties.items() %}
    {{- name }}: {{ type_of(spec) | trim }}{{ '' if name in tool.parameters.required else ' = None' }}
    {%- if not loop.last %}, {% endif %}
{%- endfor %}):
    \\"\\"\\"{{ tool.description | default('', true) }}\\"\\"\\"
{% endmacro -%}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' }}
{%- if tools %}
{%- for tool in tools %}
{{ signature(tool.function) }}
{%- endfor %}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'user' -%}
{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + message.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message.role == 'assistant' and message.content -%}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + message.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif -%}"""

HUNYUAN = """{% set context = {'has_head': true} %}
{% set seen = namespace(head=true) %}
{% for message in messages %}
{% set content = message['content'] %}
{% if message['role'] == 'system' %}
{% set seen.head = false %}
{% set content = '<|startoftext|>' + content + '<|extra_4|>' %}
{% elif message['role'] == 'user' %}
{% if loop.index0 == 0 and seen.head %}
{% set content = '<|startoftext|>' + content %}
{% elif loop.index0 > 1 %}
{% set content = '<|startoftext|>' + content %}
{% endif %}
{% set content = content + '<|extra_0|>' %}
{% else %}
{% set content = (content or '') + '<|eos|>' %}
{% endif %}
{{- content -}}
{% endfor %}"""

GPT_OSS = """{%- macro render_type(spec, nullable=false) -%}
    {%- if spec.type == "array" -%}
        {{- render_type(spec['items']) ~ '[]' if spec['items'] else 'any[]' -}}
    {%- elif spec.enum -%}
        {{- '"' ~ spec.enum | join('" | "') ~ '"' -}}
    {%- elif spec.type in ('integer', 'number') -%}
        number
    {%- elif spec.type == 'object' and spec.properties -%}
        {
        {%- for name, inner in spec.properties.items() %}
            {{- name ~ ('' if name in (spec.required or []) else '?') ~ ': ' ~ render_type(inner) }}{{ ', ' if not loop.last else '' }}
        {%- endfor -%}
        }
    {%- else -%}
        {{- spec.type | default('any') -}}
    {%- endif -%}
    {%- if nullable %} | null{% endif -%}
{%- endmacro -%}
{{- '<|start|>system<|message|>Today is ' + strftime_now('%Y-%m-%d') + '\\nReasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- if tools %}
{{- '<|start|>developer<|message|>namespace functions {\\n' }}
{%- for tool in tools %}
    {%- set f = tool.function %}
    {{- '// ' ~ f.description ~ '\\ntype ' ~ f.name ~ ' = (_: ' ~ render_type(f.parameters) ~ ') => any;\\n' }}
{%- endfor %}
{{- '}<|end|>' }}
{%- endif %}
{%- set last = namespace(call=none) %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if message.thinking is defined and not loop.last %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' ~ message.thinking ~ '<|end|>' }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- set last.call = message.tool_calls[0].function.name %}
            {{- '<|start|>assistant to=functions.' ~ last.call ~ '<|channel|>commentary json<|message|>' ~ message.tool_calls[0].function.arguments | tojson ~ '<|call|>' }}
        {%- else %}
            {{- '<|start|>assistant<|channel|>final<|message|>' ~ message.content ~ '<|return|>' }}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {%- if last.call is none %}{{- raise_exception('A result without a call') }}{%- endif %}
        {{- '<|start|>functions.' ~ last.call ~ ' to=assistant<|message|>' ~ message.content | tojson ~ '<|end|>' }}
    {%- elif message.role == 'user' %}
        {{- '<|start|>user<|message|>' ~ message.content ~ '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif -%}"""

GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message %}
Knowledge Cutoff Date: April 2024.
Today's Date: {{ strftime_now('%B %d, %Y') }}.
{%- endset %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if documents %}
    {{- '<|start_of_role|>documents<|end_of_role|>' }}
    {%- for document in documents %}
        {{- 'Document ' + loop.index | string + '\\n' + document['title'] ~ ': ' + document['text'] }}
        {%- if not loop.last %}{{- '\\n\\n' }}{%- endif %}
    {%- endfor %}
    {{- '<|end_of_text|>\\n' }}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] or '') + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

VICUNA = """{{ (messages|selectattr('role', 'equalto', 'system')|list|last).content|trim if (messages|selectattr('role', 'equalto', 'system')|list) else '' }}
{% for message in messages %}
{% if message['role'] == 'user' %}
USER: {{ message['content']|trim -}}
{% elif message['role'] == 'assistant' %}
 ASSISTANT: {{ message['content'] or '' }}{{ eos_token }}
{% endif %}
{% endfor %}
{{- ' ASSISTANT:' if add_generation_prompt -}}"""

ALPACA = """{% for message in messages %}
### {{ {'user': 'Instruction', 'assistant': 'Response'}[message.role] | default(message.role | title) }}:
{{ message.content }}

{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}"""

FALCON = """{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ message['role'] | capitalize + ': ' + (message['content'] or '') | replace('\\r\\n', '\\n') | replace('\\n\\n', '\\n') }}{% endfor %}{% if add_generation_prompt %}{{ '\\n' + 'Assistant:' }}{% endif %}"""

MARKED = """{%- for message in messages -%}
{{ '<|' ~ message.role ~ '|>\\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content or '' }}{{ eos_token }}{% endgeneration %}
{%- else -%}
{{ message.content }}
{%- endif %}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

FAMILIES = {name.lower(): text for name, text in list(globals().items()) if name.isupper() and isinstance(text, str)}
