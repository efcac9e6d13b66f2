"""Do what an attacker changes and what an explanation marks coincide?"""

from detxai.concepts.attacks.comparison import AttackComparison, RegionAttack, compare_attack
from detxai.engine.attacks.attack import Attack, attack
from detxai.engine.attacks.goals import AttackGoal, make_goal
from detxai.engine.attacks.pgd import PGD

__all__ = [
    "PGD",
    "Attack",
    "AttackComparison",
    "AttackGoal",
    "RegionAttack",
    "attack",
    "compare_attack",
    "make_goal",
]
