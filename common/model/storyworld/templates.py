"""How a story is worded: for every kind of sentence, the templates it is dealt from.

Slots, filled by `world.Teller.say`:
    {A}            the person the sentence is about, by name or as "she"/"he"; {N} always by name
    {she} {her} {him} {self}   that person's pronouns: "she"/"he", "her"/"his", "her"/"him", "herself"/"himself"
    {B}            a second person, by name
    {t} {u}        things ("the red kite" or "the kite"); {new} a thing met for the first time ("a red kite")
    {at} {to}      where it happens or where it leads ("in the bakery", "the bakery"); {old} where from
    {at_far} {far} a place that is mentioned and nothing more
A sentence that changes the world says so in full: who, what and where are always in its own words.
"""

OPENINGS = {  # by the weather that they leave behind
    "dry": (
        "It was a fine {day} morning in {village}.",
        "{day} began brightly in {village}, which surprised everyone.",
        "The sun came up over {village} as though it had been paid to.",
        "Nothing ever happened in {village} on a {day}, or so people said.",
        "On {day} the people of {village} woke up full of plans.",
        "In {village}, {day} is the day for moving things about.",
        "This is the story of what went where in {village} one sunny {day}.",
        "The birds of {village} were already gossiping when {day} began.",
        "Once, on a blue and breezy {day}, {village} got into a muddle.",
    ),
    "rain": (
        "It was a drizzly {day} in {village}.",
        "It rained on {village} that {day}, but only on one side of the street.",
        "{day} came to {village} with a large grey cloud attached.",
        "A soft rain fell on {village}, and nobody took it personally.",
        "Puddles were the main news in {village} that {day}.",
    ),
}

MEET_PERSON = (
    "{N} was {at}, {doing}.",
    "{at}, {N} was {doing}.",
    "You could find {N} {at}, {doing}.",
    "{N} had come to {to} early and was {doing}.",
    "There was {N} {at}, {doing}.",
    "{N} stood {at}, {doing}.",
    "{at} sat {N}, {doing}.",
    "As for {N}, {she} was {at}, {doing}.",
)

DOING = (
    "pretending to read the newspaper", "counting seagulls", "humming out of tune", "looking important",
    "waiting for something to happen", "practising a sneeze", "arguing with a pigeon", "eating a bun",
    "writing a very long list", "admiring a puddle", "thinking about soup", "avoiding the mayor",
    "trying to remember a song", "hiding from a wasp", "rehearsing a speech", "doing nothing in particular",
    "whistling at the clouds", "feeding crumbs to a sparrow", "yawning like a cat", "polishing a pair of spectacles",
    "looking for a lost sock", "telling a duck the news", "measuring everything in sight", "knitting without looking",
    "planning a surprise", "rolling up both sleeves",
)  # fmt: skip

MEET_PERSON_WITH_THING = (
    "{N} was {at} with {new}, {doing}.",
    "{at}, {N} was holding {new} and {doing}.",
    "{N} turned up {at}, carrying {new}.",
    "{N} was {at} and had brought {new}, just in case.",
    "{N} stood {at} with {new} and a guilty smile.",
    "There was {N} {at}, proudly holding {new}.",
    "{N} had {new} with {him} and was showing it to everyone {at}.",
)

MEET_THING = (
    "{new} lay {at}.",
    "Somebody had left {new} {at}.",
    "{at} lay {new}, and nobody knew whose it was.",
    "{new} had been waiting {at} since last week.",
    "There was {new} {at}, for reasons long forgotten.",
    "{new} lay {at}, gathering dust.",
    "For once there was {new} {at}.",
    "Overnight, {new} had appeared {at}.",
    "{at}, between two empty crates, lay {new}.",
    "{new} sat {at} and looked almost alive.",
)

MEET_CONTAINER = (  # {new} is the container, {inside} what it holds
    "{at} stood {new} with {inside} inside.",
    "Somebody had left {new} {at}, and in it was {inside}.",
    "{new} stood {at}; it held {inside}.",
    "There was {new} {at}, and {inside} was hidden in it.",
    "{at} lay {new}, and whoever peeped inside saw {inside}.",
)

MOVE = (
    "{A} walked to {to}.",
    "{A} wandered over to {to}.",
    "{A} strolled to {to} without a care.",
    "{A} hurried to {to}.",
    "{A} ambled along to {to}.",
    "{A} skipped all the way to {to}.",
    "{A} marched to {to} as if there were a parade.",
    "{A} tiptoed to {to} for no good reason.",
    "{A} took the long way round to {to}.",
    "{A} took a short cut to {to} and arrived covered in leaves.",
    "{A} cycled to {to}, ringing the bell at every cow.",
    "{A} left {old} and went to {to}.",
    "{A} set off for {to} and was there in no time.",
    "{A} had seen enough of {old} and moved on to {to}.",
    "{A} went to {to}, and {old} was quieter for it.",
    "{A} went off to {to} to think.",
    "{A} followed {her} nose to {to}.",
    "{A} followed a butterfly all the way to {to}.",
    "{A} trotted to {to} like a pony.",
    "{A} got lost twice on the way to {to}, but arrived in the end.",
    "{A} raced a snail to {to} and won.",
    "{A} limped to {to} with a pebble in {her} shoe.",
    "{A} heard a rumour about free cake and dashed to {to}.",
    "{A} set out from {old} and ended up {at}.",
    "It was time for a change, so {A} went to {to}.",
    "Off went {N} to {to}, humming.",
    "By and by {A} reached {to}.",
    "A moment later {A} was {at}.",
    "{A} moved from {old} to {to}.",
    "{A} went to {to} and would not say why.",
    "{A} said goodbye to {old} and hello to {to}.",
    "{A} dawdled down the lane to {to}.",
    "{A} turned up {at}, slightly out of breath.",
    "{A} got bored and drifted over to {to}.",
    "{A} went to {to} to see if it was still there. It was.",
    "Nobody noticed when {N} slipped away to {to}.",
    "{A} counted to ten and ran to {to}.",
    "{A} walked backwards to {to}, for a bet.",
)

MOVE_CARRYING = (
    "{A} carried {t} to {to}.",
    "{A} lugged {t} all the way to {to}.",
    "{A} went to {to} with {t} under one arm.",
    "{A} took {t} along to {to}.",
    "{A} balanced {t} on {her} head and walked to {to}.",
    "{A} hurried to {to}, clutching {t}.",
    "{A} marched to {to}, holding {t} like a trophy.",
    "{A} brought {t} to {to}, where nobody had asked for it.",
    "{A} went to {to}, and {t} went too.",
    "With {t} in {her} arms, {N} stumbled to {to}.",
    "{A} took {t} for a walk to {to}.",
    "{A} left {old} with {t} and went to {to}.",
)

MOVE_TOGETHER = (
    "{N} and {B} walked to {to} together.",
    "{A} took {B} along to {to}.",
    "{N} and {B} raced each other to {to}. It was a draw.",
    "{N} and {B} went to {to}, arguing about jam.",
    "{A} led {B} to {to} by the sleeve.",
    "Arm in arm, {N} and {B} strolled to {to}.",
    "{N} and {B} left {old} and went to {to}.",
    "{N} and {B} got tired of {old} and wandered to {to} together.",
    "{A} went to {to}, and {B} came too.",
    "{N} and {B} marched to {to}, singing different songs.",
)

JOIN = (
    "{A} joined {B} {at}.",
    "{A} went to {to} to keep {B} company.",
    "{A} came to see {B} {at}.",
    "{A} missed {B} and went over to {to}.",
    "{A} heard {B} laughing {at} and went there at once.",
    "{A} went to {to}, where {B} was already waiting.",
    "{A} walked to {to} and gave {B} quite a fright.",
    "{A} left {old} and found {B} {at}.",
)

TAKE = (
    "{A} picked up {t}.",
    "{A} took {t}.",
    "{A} grabbed {t} before anyone else could.",
    "{A} scooped up {t}.",
    "{A} took charge of {t}.",
    "{A} found {t} {at} and kept it.",
    "{A} helped {self} to {t}.",
    "{A} could not resist {t} and took it.",
    "{A} took {t}, just in case.",
    "{A} spotted {t} and snatched it up.",
    "{A} bent down with a groan and picked up {t}.",
    "{A} dusted off {t} and took it.",
    "{A} looked left, looked right, and took {t}.",
    "{A} decided that {t} needed a better home and picked it up.",
    "{A} tripped over {t}, said something rude and picked it up.",
    "{A} gathered up {t} {at}.",
)

FETCH = (
    "{A} went to {to} and picked up {t}.",
    "{A} ran to {to} and came upon {t}, which {she} took.",
    "{A} hurried to {to} and grabbed {t}.",
    "{A} walked to {to} and helped {self} to {t}.",
    "{A} remembered {t}, rushed to {to} and collected it.",
    "{A} left {old}, went to {to} and took {t}.",
    "{A} popped over to {to} and took {t} without asking.",
    "{A} crept to {to} and made off with {t}.",
)

PUT = (
    "{A} put {t} down {at}.",
    "{A} left {t} {at}.",
    "{A} dropped {t} {at} with a bump.",
    "{A} set {t} down {at}, very gently.",
    "{A} grew tired of {t} and left it {at}.",
    "{A} parked {t} {at}.",
    "{A} abandoned {t} {at} without a second glance.",
    "{A} hid {t} {at}, behind a stack of old newspapers.",
    "{A} needed both hands and put {t} down {at}.",
    "{A} laid {t} down {at} like a sleeping baby.",
    "{A} found the perfect spot {at} for {t} and left it there.",
    "{A} placed {t} {at} and stepped back to admire it.",
    "{A} had no more use for {t} and left it behind {at}.",
    "{A} put {t} down {at} and at once forgot about it.",
    "{A} got rid of {t} {at}.",
)

DELIVER = (
    "{A} took {t} to {to} and left it there.",
    "{A} carried {t} to {to} and put it down.",
    "{A} delivered {t} to {to}, where {she} left it on the ground.",
    "{A} hurried to {to} and hid {t} there.",
    "{A} walked to {to}, put {t} down and sighed with relief.",
    "{A} went to {to} to drop off {t}, and did.",
    "{A} lugged {t} from {old} to {to} and dropped it there.",
    "{A} brought {t} to {to} and set it down with great ceremony.",
)

GIVE = (
    "{A} gave {t} to {B}.",
    "{A} handed {t} to {B}.",
    "{A} gave {B} {t}.",
    "{A} passed {t} to {B}, who nearly dropped it.",
    "{A} made {B} a present of {t}.",
    "{A} let {B} have {t}.",
    "{A} lent {t} to {B}.",
    "{A} pressed {t} into the hands of {B}.",
    "{A} sold {t} to {B} for two buns.",
    "{A} tossed {t} to {B}, who caught it.",
    "{A} owed {B} a favour and handed over {t}.",
    "{A} said that {t} suited {B} better, and handed it over.",
    "{A} got tired of {t} and gave it to {B}.",
    "{A} presented {B} with {t} and a short speech.",
    "{A} lost {t} to {B} at dominoes.",
)

TAKE_FROM = (
    "{A} borrowed {t} from {B}.",
    "{A} took {t} from {B}.",
    "{A} won {t} from {B} at cards.",
    "{A} bought {t} from {B} for a song, and sang it.",
    "{A} talked {B} into handing over {t}.",
    "{A} asked {B} for {t}, and got it.",
    "{A} tickled {B} until {t} changed hands.",
    "{A} accepted {t} from {B} with a bow.",
    "{A} begged so nicely for {t} that {B} gave it up.",
    "{A} relieved {B} of {t}.",
)

SWAP = (  # {A} had {t} and gets {u}
    "{A} gave {B} {t} and got {u} in return.",
    "{A} traded {t} for {u}, and {B} thought it a bargain.",
    "{A} gave {t} to {B} in exchange for {u}.",
    "{N} and {B} made a swap: {t} went to {B}, and {u} to {N}.",
    "{A} offered {B} {t} for {u}, and they shook hands on it.",
    "{A} swapped {t} for {u}, which {B} had been carrying.",
    "{A} took {u} from {B} and gave {t} in its place.",
)

STOW = (  # {t} goes into {u}
    "{A} put {t} in {u}.",
    "{A} hid {t} in {u}.",
    "{A} popped {t} into {u}.",
    "{A} slipped {t} into {u} when nobody was looking.",
    "{A} tucked {t} away in {u}.",
    "{A} dropped {t} into {u} and felt very clever.",
    "{A} decided that {t} would be safe in {u}, and put it there.",
    "{A} kissed {t} goodnight and laid it in {u}.",
    "{A} stuffed {t} into {u}.",
)

UNSTOW = (  # {t} comes out of {u}
    "{A} took {t} out of {u}.",
    "{A} fished {t} out of {u}.",
    "{A} looked into {u}, found {t} and kept it.",
    "{A} shook {u} until {t} fell out, and picked it up.",
    "{A} rescued {t} from {u}.",
    "{A} pulled {t} out of {u} like a conjurer.",
    "{A} rummaged in {u} and came up with {t}.",
    "{A} emptied {u} and held on to {t}.",
)

ANIMAL_SMALL = (
    "A magpie carried {t} off to {to}.",
    "A squirrel ran off with {t} and dropped it {at}.",
    "A jackdaw stole {t} and left it {at}.",
    "A seagull flew off with {t}, thought better of it, and let it fall {at}.",
    "A kitten batted {t} all the way to {to}.",
    "A crow took a fancy to {t} and hid it {at}.",
    "A mouse, puffing, pushed {t} from {old} to {to}.",
)

ANIMAL_LARGE = (
    "A goat nudged {t} all the way to {to}.",
    "A large dog dragged {t} to {to}.",
    "Two geese, working together, pulled {t} to {to}.",
    "The vicar's pig pushed {t} from {old} to {to} and left it there.",
    "The postman mistook {t} for a parcel and delivered it to {to}.",
    "The mayor had {t} removed to {to}.",
    "The twins from next door carried {t} off to {to} and ran away.",
    "A passing donkey walked off with {t} and dropped it {at}.",
    "The choir needed more room, so {t} was moved to {to}.",
    "A gang of very small children rolled {t} to {to}.",
    "The milkman found {t} in his way and left it {at}.",
)

# ---- sentences after which the world is just as it was ----

WEATHER = {  # by the weather before: (the weather after, template)
    "dry": (
        ("rain", "It began to rain."),
        ("rain", "A fat raindrop fell, and then all the others."),
        ("rain", "Dark clouds rolled in, and soon it was pouring."),
        ("dry", "The sun shone as if it had nothing better to do."),
        ("dry", "A small cloud crossed the sky, looking lost."),
        ("dry", "A warm wind ruffled every hat in the village."),
        ("dry", "The sky was so blue that it looked freshly painted."),
        ("dry", "The breeze smelled of fresh bread."),
    ),
    "rain": (
        ("dry", "The rain stopped as suddenly as it had begun."),
        ("dry", "The clouds ran out of water, and the sun came back."),
        ("dry", "At last the rain gave up, and a rainbow appeared."),
        ("rain", "It rained a little harder, to make a point."),
        ("rain", "The gutters gurgled happily."),
        ("rain", "The frogs were delighted with the rain."),
        ("rain", "Thunder grumbled somewhere far away."),
    ),
}

CLOCK = (
    "The church clock struck {hour}.",
    "The church clock struck {hour}, more or less.",
    "It was {hour} o'clock by the church clock.",
    "The church clock coughed and struck {hour}.",
)

VILLAGE = (
    "Somewhere a dog barked at nothing.",
    "A duck walked by with the air of a mayor.",
    "A cat watched all this and disapproved.",
    "Two pigeons discussed the matter.",
    "A bus came through the village and did not stop.",
    "The mayor waved to everyone, including a scarecrow.",
    "Nobody had seen the vicar's spectacles, least of all the vicar.",
    "Somebody was frying sausages.",
    "A bee inspected the flowers one by one.",
    "The postman fell off his bicycle, but only slightly.",
    "Somewhere a door slammed, and somebody said sorry to it.",
    "The choir practised the same three notes.",
    "A cow mooed in a thoughtful way.",
    "A snail crossed the road and was proud of it.",
    "Three sparrows held a meeting.",
    "A child asked why, and nobody knew.",
    "Far away a train hooted twice.",
    "A hedgehog sneezed under a hedge.",
    "The smell of plum jam drifted down the street.",
    "A kettle sang in somebody's kitchen.",
    "The village cat had its second breakfast.",
    "An old man told a tree what he thought of it.",
    "A tomato rolled down the street, pursued by a grocer.",
    "A goose chased the milkman, and the milkman chased his hat.",
    "For a minute nothing happened at all.",
    "A hen laid an egg and told everybody.",
    "The washing danced on the line.",
    "Somebody laughed behind a curtain.",
)

PERSON = (
    "{A} sneezed three times.",
    "{A} wondered whether it was time for tea.",
    "{A} hummed a song about gravy.",
    "{A} told {self} a joke and laughed politely.",
    "{A} yawned so widely that a fly took notice.",
    "{A} lost count of something and started again.",
    "{A} made a wish and would not tell.",
    "{A} felt hungry again.",
    "{A} practised looking surprised.",
    "{A} sat down for a minute and stood up after two.",
    "{A} made a list and crossed everything out.",
    "{A} had an idea, but it got away.",
    "{A} tied {her} shoelaces together by mistake.",
    "{A} bowed to a passing duck.",
    "{A} sighed like a pair of bellows.",
    "{A} ate a plum and kept the stone for luck.",
    "{A} counted {her} fingers and was satisfied.",
    "{A} looked up at the clouds and saw a whale.",
    "{A} danced a few steps when nobody was watching.",
    "{A} forgot what {she} was about to say.",
    "{A} scratched {her} chin and felt wiser.",
    "{A} got the hiccups and blamed the soup.",
    "{A} began a poem and ran out of rhymes.",
    "{A} said good morning to a bush by mistake.",
    "{A} waved at somebody who was not there.",
    "{A} straightened {her} hat.",
    "{A} thought of a very good answer to last week's question.",
    "{A} chased a wasp, and then the wasp chased {him}.",
    "{A} invented a new kind of sandwich, in {her} head.",
    "{A} remembered a dream about penguins.",
    "{A} stood on one leg for as long as {she} could.",
)

PERSON_HERE = (  # {at}: where {A} is
    "{A} hummed to {self} {at}.",
    "{A} looked for a place to sit {at}.",
    "{A} was still {at}, and in no hurry.",
    "{A} had a short nap {at}.",
    "{A} swept a few leaves aside {at}.",
    "{A} stayed {at} and watched the world go by.",
)

PERSON_FAR = (  # {far}: where {A} is not, and does not go
    "{A} thought about going to {far}, but stayed put.",
    "{A} drew a map of {far} and got it wrong.",
    "{A} remembered a happy afternoon spent {at_far}.",
    "{A} had heard strange stories about {far}.",
    "{A} wrote a postcard with a picture of {far} on it.",
    "{A} very nearly went to {far}, and then did not.",
    "{A} claimed to have seen a ghost {at_far} last winter.",
    "{A} would not have gone to {far} for all the tea in China.",
    "{A} promised to paint {far} one day.",
)

PAIR = (  # {A} and {B} are in the same place
    "{A} told {B} a joke, but forgot the ending.",
    "{A} asked {B} about the weather.",
    "{N} and {B} talked about the price of buns.",
    "{A} taught {B} a clapping game.",
    "{A} gave {B} a wink.",
    "{N} and {B} agreed that it had been a long day.",
    "{A} splashed {B} by accident, or so it seemed.",
    "{N} and {B} disagreed about the right way to eat a pear.",
    "{A} whispered something to {B}, who giggled.",
    "{N} and {B} played noughts and crosses with a stick.",
    "{A} told {B} about an aunt who could juggle.",
    "{A} complimented {B} on a remarkable hat.",
    "{N} and {B} both spoke at once, and then neither did.",
    "{A} offered {B} a peppermint.",
    "{A} showed {B} how to walk like a heron.",
    "{N} and {B} had a staring contest. Nobody won.",
    "{A} asked {B} a riddle that had no answer.",
    "{A} pretended not to see {B}.",
)

HOLDING = (  # {A} has {t}
    "{A} polished {t} with a sleeve.",
    "{A} held {t} up to the light.",
    "{A} looked at {t} and wondered what it was worth.",
    "{A} gave {t} a little pat.",
    "{A} nearly dropped {t}.",
    "{A} sang a lullaby to {t}.",
    "{A} told {t} all {her} troubles.",
    "{A} found that {t} was heavier than it looked.",
    "{A} held on tightly to {t}.",
    "{A} tried to guess how old {t} was.",
    "{A} would not let go of {t}.",
)

REFUSE = (  # {A} has {t} and keeps it
    "{B} asked {N} for {t}, and the answer was no.",
    "{A} showed {t} to {B}, but would not let go of it.",
    "{B} reached for {t}, but {N} was quicker.",
    "{A} let {B} look at {t}, but not touch it.",
    "{B} admired {t}, and {N} held it a little tighter.",
)

PLACE = (  # something small at any place
    "A pigeon fell asleep {at_far}.",
    "There was a smell of paint {at_far}.",
    "Somebody had chalked a smiling face on the wall {at_far}.",
    "A notice {at_far} said that there was nothing to notice.",
    "A sparrow hopped about {at_far}.",
    "Tourists took photographs of {far}.",
    "The wind whistled around {far}.",
    "People said that {far} was haunted by a polite ghost.",
    "The mayor had plans for {far}, but no money.",
    "Not much was going on {at_far}.",
)

CONNECTIVES = (
    "Then", "After that,", "A little later,", "Before long,", "Soon afterwards,", "Presently,", "For once,", "Next,",
    "In the meantime,", "After a while,", "Some time later,", "As luck would have it,", "In due course,",
    "For reasons of {her} own,",
)  # fmt: skip

ENDINGS = (
    "And that, more or less, was {day}.",
    "And so {day} came to an end in {village}.",
    "In {village} they still talk about it.",
    "Nobody in {village} ever found out why.",
    "The moon looked down on {village} and asked no questions.",
    "One by one the lamps of {village} were lit.",
    "All in all, it had been quite a {day}.",
    "The village cat, who had seen everything, said nothing.",
    "It was, everyone agreed, a very ordinary {day}.",
    "And if nobody has moved anything since, that is how things still stand.",
    "The rest of {day} was as quiet as a cushion.",
    "That is the whole story, and most of it is true.",
    "By then even the ducks had gone quiet.",
    "The stars came out over {village} to see what was left.",
    "And the mayor? The mayor had slept through it all.",
    "Such was {day} in {village}, and it could have been worse.",
)

QUESTIONS = {
    "person": (
        "Where is {N} now?",
        "Where is {N}?",
        "Where can {N} be found?",
        "Where has {N} got to?",
        "Where should one look for {N}?",
        "Can you say where {N} is?",
    ),
    "thing": (
        "Where is {t} now?",
        "Where is {t}?",
        "Where can {t} be found?",
        "Where has {t} got to?",
        "Where should one look for {t}?",
        "Can you say where {t} is?",
    ),
    "holder": (
        "Who has {t}?",
        "Who has {t} now?",
        "Who is holding {t}?",
        "Who is looking after {t}?",
        "Who is carrying {t} at the moment?",
    ),
    "contents": (
        "What is in {t}?",
        "What is inside {t} now?",
        "What would you find in {t}?",
        "What does {t} hold?",
    ),
    "container": (
        "What is {t} in?",
        "What is {t} hidden in?",
        "What holds {t} now?",
        "What has {t} been put in?",
    ),
    "contained": (
        "In which part of the village is {t}?",
        "In what place is {t} now?",
        "Whereabouts in the village is {t}?",
        "Where in the village would you look for {t}?",
    ),
    "before": (
        "Where was {N} before {she} came to {to}?",
        "Where had {N} been just before {to}?",
        "Where was {N} until {she} went to {to}?",
        "Where was {N} before going to {to}?",
    ),
}
