"""Has `wrong_arguments.py` type-checked, and fails unless exactly its lines marked `# wrong` are flagged."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("wrong_arguments.py")
checked = subprocess.run(["basedpyright", "--outputjson", str(FILE)], capture_output=True, text=True)
found = [each for each in json.loads(checked.stdout)["generalDiagnostics"] if each["severity"] == "error"]
flagged = {each["range"]["start"]["line"] + 1: each["message"] for each in found}
wrong = {number for number, line in enumerate(FILE.read_text().splitlines(), 1) if line.endswith("# wrong")}
for number in sorted(flagged.keys() - wrong):
    print(f"{FILE.name}:{number} is right but flagged: {flagged[number]}")
for number in sorted(wrong - flagged.keys()):
    print(f"{FILE.name}:{number} is wrong but not flagged")
if flagged.keys() != wrong:
    sys.exit(1)
print(f"{len(wrong)} wrong arguments are flagged, and nothing else")
