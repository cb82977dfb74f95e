"""What came of a federated run, as a table: of a file, or of a run that a coordinator holds.

python3 examples/outcome_to_csv.py demo-output/outcome.json
python3 examples/outcome_to_csv.py 127.0.0.1:50461 digits
"""

import csv
import sys

from coordinator.api import Operator, load_outcome

if len(sys.argv) > 2:
    with Operator(sys.argv[1]) as operator:
        outcome = operator.outcome(sys.argv[2])
else:
    outcome = load_outcome(sys.argv[1])

# With pandas: pandas.DataFrame(outcome.devices)
rows = outcome.devices
if rows:
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
spent = outcome.run["energy_j"]
print(f"{outcome.run['state']}: {'?' if spent is None else format(spent, '.4g')} J in all", file=sys.stderr)
