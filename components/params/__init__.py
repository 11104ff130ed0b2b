"""What params.yaml may say: every key, its type and its range; a file for each part, in the order of the YAML.

Values live in params.yaml only (DVC cannot see a Python default), so no field has a value of its own; where a key
may be left out, that means that the thing is not done.
"""

# Star imports, so that a new class is named once, in its own file.
from components.params.data import *
from components.params.families import *
from components.params.fit import *
from components.params.limits import *
from components.params.measure import *
from components.params.passes import *
from components.params.schedule import *
from components.params.section import *
from components.params.targets import *
from components.params.whole import *
