"""Who and what a story can be about. Every list is plain data: add a word and the next tokenizer knows it."""

WOMEN = (
    "Ada Bea Clara Dora Edith Flora Greta Hilda Ida Juno Kitty Lottie Mabel Nell Olive Pearl Rosa Tilly Una Wilma"
).split()

MEN = (
    "Alfie Barnaby Cuthbert Desmond Ernest Felix Gus Horace Ivor Jasper Kip Leo Monty Ned Oscar Percy Rufus Stan Toby "
    "Walter"
).split()

VILLAGES = (
    "Upper Crumpet", "Lower Crumpet", "Much Yawning", "Muddlecombe", "Thistlewick", "Snoozing-on-Sea",
    "Pottering Magna", "Wobbleton", "Drizzle Bay", "Nettlesham", "Buttercross", "Long Dithering",
)  # fmt: skip

# A place is "in the bakery" when one is there and "the bakery" when one goes to it.
PLACES = (
    ("in", "the bakery"), ("in", "the boathouse"), ("at", "the mill"), ("on", "the pier"), ("in", "the bell tower"),
    ("in", "the library"), ("in", "the greenhouse"), ("at", "the post office"), ("at", "the duck pond"),
    ("on", "the village green"), ("under", "the old oak"), ("in", "the orchard"), ("at", "the railway station"),
    ("in", "the lighthouse"), ("in", "the tea shop"), ("on", "the stone bridge"), ("in", "the churchyard"),
    ("in", "the barn"), ("at", "the market"), ("in", "the museum"), ("in", "the school hall"), ("at", "the bandstand"),
    ("in", "the smithy"), ("at", "the crossroads"), ("in", "the stables"), ("in", "the tool shed"),
    ("in", "the smugglers' cave"), ("on", "the beach"), ("in", "the rose garden"), ("on", "the windy hill"),
)  # fmt: skip

# Small things fit into containers. A noun appears once in a story, so "the key" is always clear.
SMALL_THINGS = {
    "key": ("brass", "rusty", "tiny"),
    "marble": ("green", "chipped", "lucky"),
    "whistle": ("tin", "silver", "shrill"),
    "thimble": ("silver", "dented", "wooden"),
    "spoon": ("wooden", "bent", "silver"),
    "button": ("purple", "lost", "pearl"),
    "coin": ("gold", "foreign", "old"),
    "acorn": ("golden", "perfect", "painted"),
    "ring": ("ruby", "copper", "mysterious"),
    "feather": ("blue", "peacock", "long"),
    "cork": ("squeaky", "famous", "old"),
    "medal": ("bronze", "shiny", "chocolate"),
    "pencil": ("yellow", "chewed", "short"),
    "harmonica": ("pocket", "sad", "silver"),
    "compass": ("broken", "brass", "explorer's"),
    "candle": ("striped", "half-burnt", "birthday"),
    "letter": ("secret", "unopened", "scented"),
    "ticket": ("crumpled", "pink", "raffle"),
    "toffee": ("sticky", "wrapped", "ancient"),
    "seashell": ("pink", "spiral", "whispering"),
}

LARGE_THINGS = {
    "kite": ("red", "striped", "patched"),
    "trumpet": ("brass", "dented", "noisy"),
    "umbrella": ("yellow", "enormous", "spotted"),
    "cabbage": ("prize", "giant", "purple"),
    "pumpkin": ("enormous", "lopsided", "orange"),
    "ladder": ("wooden", "rickety", "long"),
    "accordion": ("wheezy", "red", "second-hand"),
    "lantern": ("copper", "paper", "flickering"),
    "cheese": ("wobbly", "smelly", "round"),
    "oar": ("blue", "left-handed", "varnished"),
    "broom": ("bristly", "black", "crooked"),
    "pillow": ("feather", "velvet", "lumpy"),
    "telescope": ("brass", "long", "borrowed"),
    "tuba": ("gleaming", "gloomy", "huge"),
    "birdcage": ("empty", "gilded", "bamboo"),
    "rug": ("tartan", "woolly", "moth-eaten"),
    "globe": ("spinning", "dusty", "antique"),
    "fiddle": ("old", "cherry-red", "squeaky"),
    "scarf": ("endless", "striped", "itchy"),
    "trifle": ("wobbly", "magnificent", "sherry"),
    "weathercock": ("rusty", "golden", "proud"),
    "deckchair": ("striped", "folding", "treacherous"),
    "portrait": ("gloomy", "unfinished", "oil"),
}

# A container is a thing too: it can be carried about, with what is inside it.
CONTAINERS = {
    "hatbox": ("round", "flowery"),
    "teapot": ("china", "chipped"),
    "tin": ("biscuit", "tobacco"),
    "basket": ("picnic", "wicker"),
    "boot": ("left", "muddy"),
    "suitcase": ("leather", "battered"),
    "flowerpot": ("clay", "cracked"),
    "jar": ("pickle", "jam"),
    "satchel": ("canvas", "school"),
    "drawer": ("loose", "squeaky"),
}

HOURS = "eight nine ten eleven twelve one two three four five six".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
