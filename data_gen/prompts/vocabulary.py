"""The grammar's words. Each list is read by people too: no entry that makes a sentence wrong in any combination.

A kind is a group of categories that share what they look like and what they do. A category has its own nouns.
"""

from __future__ import annotations

from dataclasses import dataclass


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


COLOURS = _list(
    "red, blue, green, yellow, orange, purple, pink, white, black, grey, brown, turquoise, golden, silver, cream, "
    "dark green, pale blue, dark red"
)
LOOKS = _list(
    "old, tiny, large, round, striped, spotted, shiny, rusty, wooden, fluffy, red, blue, green, yellow, white, black, "
    "golden, grey, plump, tall, worn, colourful, patterned, pale, dark, smooth, woolly, painted"
)
PLACES = _list(
    "on a sandy beach, in a sunny kitchen, in deep snow, on a wooden table, in a pine forest, in a busy city street, "
    "on a river bank, under an old tree, on a velvet sofa, in a flower garden, on a rooftop, at a street market, "
    "in the desert, on a stone bridge, in a library, in front of a brick wall, on a mountain meadow, by a waterfall, "
    "in an empty parking lot, on a wooden pier, in a greenhouse, beside a campfire, on a window sill, in a barn, "
    "on a cobbled square, in a field of sunflowers, in a railway station, on a park bench, in a workshop, "
    "on a marble floor, by a swimming pool, in a bamboo grove, on a rocky shore, in a hotel lobby, in autumn leaves, "
    "on a colourful carpet, in front of a castle, on a balcony, in a vineyard, beside a frozen lake, in a museum, "
    "on a country road, in a classroom, on a pile of books, in a shop window, on a wet pavement, in tall grass, "
    "at the foot of a lighthouse, in a cosy living room, on a hay bale, in an orchard, on a picnic blanket, "
    "in front of a waterfall, in a subway car, on a tiled roof, in a concert hall, on a tree stump, by a garden pond, "
    "in a rice field, on a terrace by the sea, in a narrow alley, on a snowy mountain top, in a lavender field, "
    "on a bathroom shelf, in an attic, beside a fireplace, on a farm, in a rock garden, on a harbour wall"
)
LIGHTS = _list(
    "at sunset, at dawn, in the morning light, under a cloudy sky, at night, in the rain, in soft light, at noon, "
    "in the fog, in the golden evening light, under a starry sky, in bright sunshine, in the warm light of a lamp"
)


@dataclass(frozen=True)
class Kind:
    """`looks` go before a noun, `features` after "with", `actions` between the subject and its place."""

    looks: tuple[str, ...]
    features: tuple[str, ...]
    """{colour} becomes a colour."""
    actions: tuple[str, ...]

    @classmethod
    def of(cls, **lists: str) -> Kind:
        return cls(**{name: _list(text) for name, text in lists.items()})


_ANIMALS = Kind.of(
    looks="red, brown, grey, white, black, golden, spotted, striped, young, old, plump, slender, tiny, large, shaggy, "
    "curious, sleepy, silver, cream, reddish brown, dark grey, snow white, patchy, pale, scruffy, proud, playful, "
    "wild, sandy, dusty, bushy, muddy, shy, cheerful",
    features="a {colour} collar, one white paw, a torn ear, a {colour} ribbon around its neck, a white patch over one "
    "eye, a dark stripe down its back, a {colour} scarf, pale speckles on its back, a bright {colour} bandana, bright "
    "green eyes, a crooked tail, a white belly, a small bell around its neck, a {colour} harness",
    actions="sleeping, sitting, running, standing, looking up, resting, walking, playing, stretching, waiting, "
    "turning its head, lying down, looking at the camera, sniffing the air, yawning",
)
_CHARACTERS = Kind.of(
    looks="old, young, tall, small, stout, smiling, bearded, brave, mysterious, cheerful, grumpy, elegant, ragged, "
    "proud, sleepy, friendly, weary, clumsy, wise, fierce, jolly, silent, golden, silver, pale, cartoon, wooden, "
    "tiny, blue, green, freckled, wandering",
    features="a {colour} cloak, a pointed {colour} hat, round glasses, a {colour} backpack, long {colour} boots, a "
    "patched {colour} coat, a {colour} feather in the hat, a silver belt, a lantern in one hand, a {colour} scarf, a "
    "{colour} star on the chest, striped {colour} sleeves, a walking stick, {colour} gloves",
    actions="standing, sitting, walking, waving, reading a map, drinking tea, looking into the distance, dancing, "
    "resting, waiting, laughing, kneeling, pointing at the sky, eating an apple, looking at the camera",
)
_THINGS = Kind.of(
    looks="red, blue, green, yellow, orange, purple, pink, white, black, grey, brown, turquoise, golden, silver, "
    "cream, old, worn, shiny, small, large, striped, spotted, checked, patterned, painted, antique, modern, faded, "
    "polished, dusty, two-coloured, handmade, tiny, plain",
    features="a {colour} stripe around it, a {colour} star on its front, small {colour} dots, a dent on one side, a "
    "{colour} ribbon tied to it, a scratched corner, a {colour} label, golden edges, a {colour} zigzag pattern, a "
    "painted {colour} flower, a row of {colour} rings, a {colour} heart on it, a chipped edge, a broad {colour} band",
    actions="standing, lying, placed, displayed, photographed from above, seen from the side, half in the shade, seen "
    "up close, left behind, photographed from below, seen from behind, leaning to one side",
)
_FOODS = Kind.of(
    looks="fresh, golden, round, small, large, colourful, homemade, glazed, striped, sliced, warm, crispy, layered, "
    "decorated, rustic, square, thick, pink, green, yellow, red, white, dark, glossy, steaming, spiced, tiny, tall, "
    "toasted, heart-shaped",
    features="a sprig of mint on top, {colour} sprinkles, a little {colour} flag, a bite taken out of it, a cherry on "
    "top, {colour} icing, a dusting of sugar, a {colour} paper wrapper, dark seeds on its crust, a spiral pattern, a "
    "{colour} candle in it, a slice of lemon beside it, a {colour} glaze, crumbs around it",
    actions="on a plate, on a wooden board, on a paper napkin, on a tray, seen from above, seen up close, half eaten, "
    "freshly served, seen from the side",
)
_VEHICLES = Kind.of(
    looks="red, blue, green, yellow, orange, white, black, silver, turquoise, cream, old, rusty, shiny, vintage, "
    "small, large, striped, two-coloured, dusty, muddy, modern, classic, painted, pink, purple, brown, grey, golden, "
    "dented, freshly painted, dark blue, pale yellow",
    features="a {colour} stripe along its side, a {colour} star on its front, a dented fender, a {colour} roof, round "
    "{colour} lamps, a large number seven on its side, {colour} flames painted on it, a {colour} flag, a cracked "
    "lamp, polished metal rims, {colour} seats, a {colour} zigzag pattern, a luggage rack",
    actions="parked, standing, seen from the side, seen from behind, covered in raindrops, seen from above, waiting, "
    "seen up close, half in the shade, photographed from below",
)
_PLANTS = Kind.of(
    looks="small, tall, young, old, blooming, wilting, lush, dark green, pale green, variegated, red, white, pink, "
    "yellow, purple, orange, blue, twisted, bushy, slender, tiny, large, potted, silvery, spiky, drooping, fragrant, "
    "wild, leafy, delicate",
    features="a {colour} clay pot, one broken leaf, a {colour} ribbon around its stem, pale stripes on its leaves, "
    "drops of dew, a single {colour} flower, a twisted stem, a {colour} ceramic pot, speckled leaves, a small wooden "
    "label, a {colour} tin can as its pot, curled leaves",
    actions="standing, growing, seen from above, seen up close, swaying in the wind, seen from the side, half in the "
    "shade, photographed from below, covered in raindrops, leaning to one side",
)

_KINDS = {
    "animal": _ANIMALS, "character": _CHARACTERS, "toy": _THINGS, "food": _FOODS, "vehicle": _VEHICLES,
    "clothing": _THINGS, "furniture": _THINGS, "musical instrument": _THINGS, "plant": _PLANTS,
    "household object": _THINGS, "tool": _THINGS, "bag": _THINGS,
}  # fmt: skip
_NOUNS = {
    "animal": "fox, cat, dog, rabbit, horse, goat, owl, parrot, hedgehog, squirrel, raccoon, otter, badger, deer, "
    "wolf, bear, donkey, alpaca, llama, lynx, ferret, hamster, guinea pig, duck, goose, rooster, turtle, lizard, "
    "penguin, kitten, puppy, corgi, poodle, terrier, pony, calf, lamb, piglet, red panda, koala, kangaroo, mouse, "
    "chipmunk, beaver, raven, pigeon, peacock, tortoise, frog, monkey",
    "character": "wizard, knight, robot, pirate, astronaut, witch, dwarf, elf, goblin, troll, mermaid, samurai, "
    "ninja, clown, chef, sailor, detective, explorer, king, queen, jester, monk, archer, viking, inventor, gardener, "
    "postman, firefighter, scarecrow, snowman, dragon, giant, fairy, vampire, alien, magician, shepherd, blacksmith, "
    "fisherman, beekeeper, pilot, ranger",
    "toy": "teddy bear, toy train, rag doll, toy robot, rubber duck, rocking horse, spinning top, toy car, kite, toy "
    "boat, plush rabbit, plush elephant, plush dinosaur, jack-in-the-box, toy truck, toy plane, wooden puppet, "
    "nutcracker, toy soldier, music box, dollhouse, building block, toy drum, pinwheel, plush owl, plush penguin, toy "
    "rocket, toy castle, toy dinosaur, sock puppet, snow globe",
    "food": "cake, cupcake, doughnut, croissant, pie, muffin, pretzel, loaf of bread, sandwich, burger, pizza, "
    "waffle, pancake, cookie, ice cream cone, bowl of soup, bowl of salad, sushi roll, taco, burrito, quiche, bagel, "
    "tart, pudding, macaron, lollipop, chocolate bar, cheese wheel, dumpling, bowl of noodles, omelette, gingerbread "
    "house, fruit salad, cinnamon roll, apple strudel, baguette",
    "vehicle": "car, van, bus, truck, tractor, motorcycle, scooter, bicycle, tram, steam locomotive, sailing boat, "
    "rowing boat, fishing boat, canoe, hot air balloon, helicopter, seaplane, biplane, fire engine, camper van, "
    "pickup truck, sports car, taxi, go-kart, tricycle, horse carriage, snowmobile, cable car, hovercraft, forklift, "
    "excavator, rickshaw, limousine, ambulance, glider, tugboat",
    "clothing": "sneaker, boot, hat, scarf, sweater, jacket, dress, skirt, coat, glove, sock, cap, beret, cardigan, "
    "raincoat, vest, kimono, poncho, sandal, slipper, high heel, shirt, t-shirt, hoodie, bow tie, necktie, straw hat, "
    "cowboy boot, mitten, apron, waistcoat, bonnet, top hat, denim jacket, bathrobe",
    "furniture": "armchair, sofa, stool, rocking chair, dining table, desk, bookcase, wardrobe, chest of drawers, "
    "bed, coffee table, bench, cabinet, nightstand, deck chair, footstool, cradle, dresser, shelf, office chair, "
    "garden chair, hammock, side table, bar stool, coat stand, room divider, bean bag, high chair, writing desk, "
    "dressing table, trunk, pouffe",
    "musical instrument": "guitar, violin, cello, trumpet, saxophone, piano, accordion, harp, flute, drum, banjo, "
    "ukulele, clarinet, tuba, trombone, xylophone, tambourine, mandolin, harmonica, double bass, bagpipe, lute, "
    "sitar, gong, bongo drum, cowbell, recorder, oboe, electric guitar, triangle, french horn, zither, hurdy-gurdy",
    "plant": "cactus, fern, bonsai tree, orchid, sunflower, rose bush, tulip, palm tree, aloe, ivy, lavender bush, "
    "succulent, monstera, rubber plant, snake plant, olive tree, lemon tree, hydrangea, geranium, daffodil, lily, "
    "poppy, thistle, basil plant, rosemary bush, water lily, agave, bamboo plant, maple tree, mushroom, venus "
    "flytrap, pumpkin plant, camellia, azalea",
    "household object": "teapot, mug, vase, lamp, candle, alarm clock, wall clock, kettle, bowl, pitcher, basket, "
    "mirror, pillow, picture frame, lantern, umbrella, radio, typewriter, telephone, camera, sewing machine, toaster, "
    "coffee grinder, watering can, sugar bowl, salt shaker, candlestick, jewellery box, piggy bank, rotary telephone, "
    "table fan, cookie jar, plate, jug, thermos flask, bird cage, globe, hourglass",
    "tool": "hammer, saw, wrench, screwdriver, shovel, rake, axe, drill, paintbrush, ladder, wheelbarrow, toolbox, "
    "tape measure, magnifying glass, compass, telescope, pocket knife, trowel, hoe, pitchfork, anvil, blowtorch, "
    "spirit level, hand plane, bucket, broom, flashlight, oil can, pulley, microscope, fishing rod, garden hose",
    "bag": "backpack, suitcase, handbag, tote bag, briefcase, duffel bag, satchel, purse, lunch box, shopping bag, "
    "messenger bag, beach bag, doctor's bag, wallet, gift bag, school bag, sports bag, picnic hamper, hat box, camera "
    "bag, carpet bag, pencil case, money pouch, bucket bag, travel bag, tool bag",
}
CATEGORY = {name: (_KINDS[name], _list(nouns)) for name, nouns in _NOUNS.items()}
"""Each category: the words that fit it, and its nouns."""
