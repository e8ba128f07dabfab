"""Words by which a prompt says who is meant, besides the names of the classes: “a lady”, “her husband”."""

from collections.abc import Iterable

# The words of a line say the same of a person. Left out is what says it of other things too (“a senior engineer”), or
# of a trade (“a fireman”).
LINES = """
man, men, male, males, gentleman, gentlemen, guy, guys, mr, lad, boy, boys, schoolboy, he, him, his, himself
woman, women, female, females, lady, ladies, mrs, ms, gal, girl, girls, schoolgirl, she, her, hers, herself
man, husband, boyfriend, father, dad, daddy, son, brother, uncle, nephew, grandfather, grandpa, king, prince
woman, wife, girlfriend, mother, mom, mum, mommy, daughter, sister, aunt, niece, grandmother, grandma, queen, princess
young, younger, youthful, teen, teens, teenage, teenager, teenagers
old, older, elderly, aged, pensioner, grandfather, grandmother, grandpa, grandma
light skin, light-skinned, light skinned, fair-skinned, pale skin
dark skin, dark-skinned, dark skinned
with glasses, wearing glasses, with spectacles, bespectacled
without glasses, no glasses
smiling, with a smile, grinning, laughing
serious, unsmiling
"""
# A class may be called so, and yet nearly every prompt has the word.
NOTHING = "a an the of in on at by to and or with without no not is as for from one two it"
FAMILIES = [[word.strip() for word in line.split(",")] for line in LINES.splitlines() if line]


def telling_words(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes, and what else says one of them; without letters and words that say nothing of anybody."""
    words = []
    for name in names:
        plain = " ".join(name.lower().split())
        words += [name, *(word for family in FAMILIES if plain in family for word in family)]
    telling = (word for word in words if word.lower() not in NOTHING.split() and (len(word) > 1 or not word.isalpha()))
    return tuple(dict.fromkeys(telling))
