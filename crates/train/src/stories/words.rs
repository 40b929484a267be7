//! The people, homes, toys, creatures and food of the stories.

/// Names of girls.
pub const GIRLS: &[&str] = &[
    "Mia", "Lily", "Anna", "Rosa", "Ella", "Nora", "Ivy", "Zoe", "Ruby", "Maya", "Tess", "Lucy", "Emma",
    "Hana", "Poppy", "June", "Amira", "Nell", "Isla", "Sana",
];

/// Names of boys.
pub const BOYS: &[&str] = &[
    "Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Noah", "Hugo", "Oscar", "Eli", "Omar", "Kai", "Ravi",
    "Milo", "Otto", "Pete", "Felix", "Joe", "Ali",
];

/// Names of animals that are told of as she.
pub const SHE_ANIMALS: &[&str] =
    &["Hazel", "Willow", "Daisy", "Clover", "Maple", "Fern", "Tilly", "Misty", "Olive", "Plum"];

/// Names of animals that are told of as he.
pub const HE_ANIMALS: &[&str] =
    &["Bruno", "Rusty", "Basil", "Pip", "Digby", "Moss", "Barley", "Jasper", "Biscuit", "Burr"];

/// Animals that can be the hero of a story: all have paws and live near one another.
pub const KINDS: &[&str] =
    &["fox", "rabbit", "bear", "hedgehog", "squirrel", "mouse", "badger", "otter", "beaver", "mole"];

/// How a hero is first described. None of them decides how a story goes.
pub const TRAITS: &[&str] =
    &["little", "small", "young", "cheerful", "curious", "kind", "gentle", "lively", "quiet"];

/// Where children live.
pub const HOMES: &[&str] = &[
    "a small house near the woods",
    "a yellow house at the end of the lane",
    "a tall house by the sea",
    "a cottage on a green hill",
    "a little farmhouse beside the river",
    "a white house with a blue door",
    "a stone house between two mountains",
    "an attic high above a busy town",
    "an old mill by the stream",
    "a red house full of books",
    "a narrow house on a noisy street",
    "a round tower with a crooked roof",
];

/// Where animals live.
pub const DENS: &[&str] = &[
    "a cozy burrow under an oak",
    "a warm den behind a waterfall",
    "a hollow tree at the edge of the meadow",
    "a snug little house made of twigs",
    "a small home with a round green door",
    "a dry cave on a sunny hill",
    "a mossy cottage by the pond",
];

/// Grown-ups: what they are called, and she or he.
pub const ELDERS: &[(&str, bool)] = &[("mom", true), ("dad", false), ("grandma", true), ("grandpa", false)];

/// Toys: the noun; what one does with it; what somebody did with it; and how two share it.
pub const TOYS: &[[&str; 4]] = &[
    ["ball", "kick it", "kicked it across the grass", "One kicked it, and the other caught it"],
    [
        "kite",
        "fly it",
        "flew it over the field",
        "One held the string, and the other threw the kite into the wind",
    ],
    ["drum", "play it", "played it from breakfast until lunch", "One played, and the other danced"],
    [
        "doll",
        "dress it",
        "gave it tea in a tiny cup",
        "One made the tea, and the other helped the doll to drink",
    ],
    [
        "teddy bear",
        "hug it",
        "told it all the news of the day",
        "One told a story, and the other held the bear",
    ],
    [
        "train",
        "push it",
        "pushed it around the legs of the table",
        "One was the driver, and the other sold tickets",
    ],
    [
        "boat",
        "sail it",
        "sailed it in the big blue tub",
        "One blew on the sail, and the other waited at the far shore",
    ],
    ["top", "spin it", "spun it until it hummed", "One spun it, and the other counted how long it danced"],
    [
        "robot",
        "wind it up",
        "wound it up and marched behind it",
        "One wound it up, and the other marched beside it",
    ],
    ["wagon", "pull it", "pulled it up and down the path", "One sat inside, and the other pulled"],
    ["hoop", "roll it", "rolled it down the hill", "One rolled it, and the other ran ahead to catch it"],
    ["trumpet", "blow it", "blew it until the windows shook", "One blew, and the other clapped along"],
];

/// What a toy or other thing can look like.
pub const LOOKS: &[&str] = &[
    "red", "blue", "green", "yellow", "orange", "purple", "white", "old", "tiny", "shiny", "painted",
    "striped", "spotted", "silver",
];

/// Colors.
pub const COLORS: &[&str] =
    &["red", "blue", "green", "yellow", "orange", "purple", "white", "pink", "golden", "silver"];

/// Baby animals: the noun; its mother; where she is; what it says; what it eats.
pub const BABIES: &[[&str; 5]] = &[
    ["duckling", "duck", "by the pond", "Peep, peep", "a few seeds"],
    ["kitten", "cat", "in the barn", "Mew, mew", "a little milk"],
    ["lamb", "sheep", "in the field on the hill", "Baa, baa", "some fresh grass"],
    ["puppy", "dog", "at the farm", "Yip, yip", "a piece of bread"],
    ["chick", "hen", "behind the mill", "Cheep, cheep", "some crumbs"],
    ["piglet", "pig", "at the farm", "Oink, oink", "half an apple"],
    ["owlet", "owl", "in the hollow oak", "Hoo, hoo", "some crumbs"],
    ["gosling", "goose", "on the river", "Honk, honk", "some clover"],
];

/// Food that is shared at the end of a story.
pub const TREATS: &[&str] = &[
    "warm cookies",
    "apple pie",
    "pancakes with honey",
    "bread and jam",
    "cherry cake",
    "plum soup",
    "cheese and pears",
    "hot chocolate",
    "strawberries with cream",
    "lemon cake",
    "sweet buns",
    "carrot cake",
];

/// Places to play in, with their preposition.
pub const PLACES: &[&str] = &[
    "in the park",
    "in the meadow",
    "by the river",
    "at the edge of the woods",
    "on the hill",
    "in the garden",
    "on the beach",
    "behind the barn",
    "near the old bridge",
    "under the big tree",
];

/// When it happened.
pub const DAYS: &[&str] = &[
    "one sunny morning",
    "one bright morning",
    "one windy day",
    "one spring day",
    "one summer day",
    "one cool morning",
    "one quiet afternoon",
    "one autumn afternoon",
    "one Saturday",
    "one Sunday morning",
    "one day",
    "one fine day",
];

/// What a hero loves, from the first lines of a story.
pub const HABITS: &[&str] = &[
    "{He} [liked|loved] to [sing|hum] while {he} [worked|walked].",
    "{He} [collected|kept] [round stones|shiny buttons|feathers|bits of string] in a [box|jar].",
    "{He} had a/an [{color} hat|{color} scarf|{color} coat] that {he} wore every day.",
    "{He} asked [many|a hundred] questions a day.",
    "{He} could [count to a hundred|whistle two songs|hop on one foot|stand on {his} head].",
    "{He} loved [rain|wind|snow|stars|mud|clouds] more than anything.",
    "{He} said good morning to the [sun|birds|trees] every day.",
    "{He} knew the name of every [bird|tree|flower|neighbor] nearby.",
];

/// Small things that happen out of doors.
pub const ASIDES: &[&str] = &[
    "A bee hummed by.",
    "A [white|gray] cloud floated past.",
    "Somewhere a bird began to sing.",
    "The wind [whispered|played] in the leaves.",
    "The sun was warm on {his} nose.",
    "A [butterfly|ladybug] sat down on {his} sleeve.",
    "The grass smelled sweet.",
    "Far away, a bell rang.",
];

/// Names of pets and machines.
pub const PET_NAMES: &[&str] = &[
    "Pickle", "Button", "Socks", "Pepper", "Captain", "Noodle", "Duchess", "Bean", "Waffle", "Mango",
    "Tiger", "Crumb",
];

/// First sentences.
pub const OPENINGS: &[&str] = &[
    "Once upon a time, there was {intro}. {He} lived in {home} with {his} {elder}.",
    "Once upon a time, {intro} lived in {home}.",
    "Once upon a time, in {home}, there lived {intro}.",
    "Once upon a time, there was {intro} who lived in {home}.",
    "There once was {intro} who lived in {home}.",
    "{Intro} lived in {home} with {his} {elder}.",
    "In {home} lived {intro}.",
    "Once there was {intro}. {His} home was {home}.",
];

/// Last sentences, for some of the stories.
pub const CLOSINGS: &[&str] = &[
    "The end.",
    "And that is the end of the story.",
    "It was a day that {hero} never forgot.",
    "If you ask {hero} about it today, {he} will tell you [just the same|the whole story again].",
    "{Hero} [has told|told] this story many times since then.",
    "And that is how it was.",
];

/// The numbers from zero, in words.
pub const NUMBERS: &[&str] = &[
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen",
];
