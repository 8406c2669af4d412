"""The examples of docs/extending.md."""

import re
from pathlib import Path

PAGE = Path("docs/extending.md").read_text()
SECTION = re.compile(r"`(\w+)\.py`, entered as `(\w+)\[\"(\w+)\"\] = \"([\w:]+)\"`(.*?)```python\n(.*?)```", re.DOTALL)
# Name -> its file, its registry, what it is entered as, the text before the code, the code.
EXAMPLES = {name: (file, registry, target, text, code) for file, registry, name, target, text, code in SECTION.findall(PAGE)}
