"""Word lists that the corpus draws from: names, things, adjectives, made-up fantasy terms."""

from dataclasses import dataclass

NAMES = tuple(
    """Alice Bob Carol David Emma Frank Grace Henry Iris Jack Kate Leo Maria Nina Oscar Paula Quinn Rosa Sam Tina Uma
    Victor Wendy Xavier Yara Zoe Aiden Bella Carlos Diana Ethan Fiona George Hannah Ivan Julia Kevin Lena Mark Nora Omar
    Priya Raj Sofia Tom Ursula Vera Will Ada Ben Clara Dan Elena Felix Gina Hugo Ines John Karl Lucy Mia Noah Olga Peter
    Ruth Simon Theo Anna Max Lisa Paul Jane Amir Chen Dmitri Eva Hiro Ingrid Jamal Keiko Luca Mei Nadia Olivia Pablo
    Samira Tariq Wei Yusuf Mary James Robert Linda Sarah Daniel Laura Kim Alex""".split()
)
# never in the corpus: the exam asks whether a name is copied that was not seen
EXAM_NAMES = tuple("Marta Edgar Bruno Selma Rashid Tobias Camila Ludwig Farah Stella Gustav Renata".split())

HEROES = tuple(
    """Arin Brakka Celest Dorn Elowen Fenric Garrik Hilda Isolde Jorund Kaela Lirien Mordan Nyx Orin Petra Quill Ragnar
    Sylva Thorin Ulric Vexa Wren Xanthe Yorick Zara Aldric Brenna Corin Dalia""".split()
)
RACES = ("human", "elf", "dwarf", "halfling", "orc", "gnome")
HOMES = ("Stormhold", "Rivergate", "Ashvale", "Moonfen", "Goldport", "Frostpeak", "Greenhollow", "Ironcliff")


@dataclass(frozen=True, slots=True)
class HeroClass:
    """What goes with a hero's class, so that a sheet makes sense."""

    weapon: str
    skill: str
    hit_points: tuple[int, int]


CLASSES = {
    "warrior": HeroClass("sword", "shield bash", (70, 99)),
    "wizard": HeroClass("staff", "fireball", (30, 60)),
    "archer": HeroClass("longbow", "piercing shot", (45, 75)),
    "thief": HeroClass("dagger", "shadow step", (40, 65)),
    "priest": HeroClass("mace", "healing light", (40, 70)),
    "knight": HeroClass("lance", "charge", (70, 99)),
    "druid": HeroClass("oak staff", "summon bear", (45, 75)),
    "bard": HeroClass("lute", "song of courage", (35, 60)),
}

THINGS = {
    "fruit": "apple banana cherry grape lemon mango orange peach pear plum".split(),
    "animal": "cat dog horse lion tiger rabbit sheep goat bear wolf".split(),
    "vehicle": "car bus train truck boat plane bicycle tram scooter van".split(),
    "color": "red blue green yellow purple black white brown pink gray".split(),
    "instrument": "piano guitar violin flute drum trumpet harp cello clarinet banjo".split(),
    "tool": "hammer saw drill wrench shovel rake chisel pliers axe file".split(),
}
ALL_THINGS = tuple(word for group in THINGS.values() for word in group)

JOBS = tuple(
    "teacher doctor nurse farmer pilot singer lawyer painter driver cook baker writer engineer dentist gardener".split()
)
HOBBIES = ("reading", "chess", "hiking", "cooking", "painting", "swimming", "dancing", "cycling", "gardening", "music")
COUNTABLES = tuple(
    "apples books coins pencils stickers marbles cookies cards shells stamps eggs toys balls pens".split()
)
PRODUCTS = tuple("lamp chair table phone camera laptop backpack watch kettle desk sofa bottle tent clock".split())

POSITIVE = tuple(
    """great wonderful excellent amazing lovely fantastic brilliant delightful superb charming perfect beautiful awesome
    good outstanding pleasant impressive enjoyable marvelous terrific""".split()
)
NEGATIVE = tuple(
    """terrible awful boring horrible bad dreadful poor disappointing dull ugly annoying useless disgusting rude broken
    unpleasant lousy miserable worthless slow""".split()
)
NEUTRAL = tuple("average ordinary okay standard typical plain usual acceptable normal fine".split())
REVIEWED = tuple(
    """movie book restaurant hotel phone song game play show museum cafe laptop service food room trip concert app
    product staff film meal""".split()
)
VERDICTS = {
    "positive": (
        "I loved it", "I will come back", "Highly recommended", "I love this place", "I would buy it again",
        "It made me happy", "I enjoyed every minute", "It works perfectly", "Best day of my life", "Thank you so much",
    ),
    "negative": (
        "I hated it", "A waste of money", "I want a refund", "I hate this place", "Never again", "It made me angry",
        "I was very disappointed", "It broke after one day", "Worst day of my life", "I do not recommend it",
    ),
    "neutral": (
        "It was neither good nor bad", "Nothing special", "I have no strong feelings", "It is what it is",
        "It arrived on Monday", "It does the job", "I do not care either way", "It was as expected",
    ),
}  # fmt: skip
ADJECTIVES = {"positive": POSITIVE, "negative": NEGATIVE, "neutral": NEUTRAL}

WEATHER = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

_ONSETS = "b br c ch d dr f fr g gr h j k kl l m n p pr qu r s st t tr v w y z".split()
_VOWELS = "a e i o u ai ea io oa".split()
_CODAS = ["", "", "n", "r", "s", "l", "m", "nd", "rt", "x"]
SYLLABLE_PARTS = (_ONSETS, _VOWELS, _CODAS)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant.",
    "You are a friendly assistant.", "You are a polite and brief assistant.", "Answer the user's questions.",
    "You are a helpful AI assistant.", "You are stolon's tiny model.", "Be brief.", "You are a kind teacher.",
    "You are a travel guide.", "You answer in short sentences.",
)  # fmt: skip
