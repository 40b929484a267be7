//! Plots in and around the house: things lost, broken, or not what they seem.

use super::{Cast, Choice, Plot};

/// See [`super::PLOTS`].
pub const PLOTS: &[Plot] = &[LOST_TOY, BROKEN_THING, NIGHT_NOISE, RAINY_PLAN, SURPRISE];

const LOST_TOY: Plot = Plot {
    name: "lost toy",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["look1", "junk1", "look2", "junk2"],
            rows: &[
                &["under the table", "a spoon and some crumbs"],
                &["behind the door", "an old broom"],
                &["in the cupboard", "a row of jars"],
                &["on top of the shelf", "dust and a sleepy spider"],
                &["under the stairs", "one lonely boot"],
                &["in the big chest", "winter coats"],
                &["behind the chair", "a button and a pencil"],
                &["in the washing basket", "seven socks"],
            ],
        },
        Choice {
            slots: &["memory", "spot", "found"],
            rows: &[
                &[
                    "I played with it in the garden before the rain",
                    "in the garden, under the roses",
                    "a little wet",
                ],
                &[
                    "I took it to the kitchen when we made soup",
                    "in the kitchen, behind the flour jar",
                    "white with flour",
                ],
                &[
                    "I read it a story in bed",
                    "at the very bottom of the bed, under the blanket",
                    "warm and cozy",
                ],
                &[
                    "I wrapped it in my scarf so that it would not be cold",
                    "in the hall, inside the scarf",
                    "warm and dry",
                ],
                &[
                    "I showed it the moon last night",
                    "on the window sill, behind the curtain",
                    "cold but safe",
                ],
                &["I hid it so that nobody would take it", "inside the big blue pot", "as good as new"],
                &[
                    "I took it along to pick apples",
                    "in the basket, under the last apples",
                    "sweet with apple smell",
                ],
                &["I made it a nest of hay", "in the shed, deep in the hay", "full of straw"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} wanted to play with {his} {look} {toy}. But it was not [in its box|on its \
                 shelf|in its place].",
                "{Hero} had {a_toy}. {He} took it everywhere[, even to breakfast|, even to bed|]. But \
                 {one_day}, the {toy} was gone.",
                "The thing that {hero} loved most was {a_toy}. {One_day}, {he} could not find it anywhere.",
                "{Hero} had {a_toy}. Every day {he} {played_toy}. Then, {one_day}, the {toy} was missing.",
            ],
            &[
                "\"Where is my {toy}?\" {he} [asked|cried].",
                "\"Oh no! My {toy} is gone!\" said {hero}.",
                "{Hero} felt [a lump in {his} throat|very small and sad]. \"My poor {toy},\" {he} said.",
                "\"{Toy}, where are you?\" called {hero}. The {toy} did not answer.",
            ],
        ],
        &[
            &[
                "{He} looked {look1}, but {he} found only {junk1}. {He} looked {look2}, and there {he} saw \
                 {junk2}.",
                "First {he} looked {look1}. {He} found {junk1}, but no {toy}. Then {he} looked {look2}. {He} \
                 found {junk2}, but no {toy}.",
                "Was it {look1}? No, {he} saw nothing but {junk1} there. Was it {look2}? No, only {junk2}.",
            ],
            &[
                "\"When did you have it last?\" asked {his} {elder}.",
                "\"Close your eyes,\" said {his} {elder}, \"and think. What did you do with it?\"",
                "{His} {elder} [sat down beside {him}|took {his} {hand}]. \"Let us think back,\" {e_he} \
                 said.",
            ],
            &[
                "{Hero} thought and thought. \"{Memory},\" {he} said [slowly|at last].",
                "{Hero} [closed {his} eyes|scratched {his} head]. Then {he} remembered. \"{Memory}!\"",
                "\"I know!\" cried {hero}. \"{Memory}!\"",
            ],
        ],
        &[
            &[
                "They [ran|hurried|went] to look. There was the {toy}, {spot}! It was {found}.",
                "And there it was, {spot}. The {toy} was {found}.",
                "{He} [ran|raced] to see, and there, {spot}, was the {look} {toy}, {found}.",
            ],
            &[
                "{Hero} [hugged|kissed] the {toy} and [laughed|danced around the room].",
                "\"I missed you!\" said {hero}, and held the {toy} tight.",
                "{Hero} was so happy that {he} [jumped up and down|hugged {his} {elder} twice].",
            ],
            &[
                "\"Next time I will put you back in your place,\" {he} told the {toy}. And {he} did.",
                "Now the {toy} has [a place of its own|its own shelf], and {hero} always knows where it is.",
                "\"Things are not lost,\" said {his} {elder}. \"They wait for us to remember.\"",
                "That night the {toy} slept right beside {him}.",
            ],
        ],
    ],
};

const BROKEN_THING: Plot = Plot {
    name: "broken thing",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["act"],
            rows: &[
                &["dancing around the table"],
                &["playing with a ball in the house"],
                &["running after a fly"],
                &["pretending to be a dragon"],
                &["jumping from chair to chair"],
                &["marching like a soldier"],
            ],
        },
        Choice {
            slots: &["thing", "mend"],
            rows: &[
                &["{color} vase", "glue"],
                &["{color} cup", "glue"],
                &["{color} plate", "glue"],
                &["{color} flower pot", "clay"],
                &["{color} lamp", "glue and a bit of string"],
                &["{color} clock", "a tiny hammer and a new spring"],
                &["{color} picture frame", "glue and four small nails"],
            ],
        },
        Choice {
            slots: &["hide"],
            rows: &[
                &["under the rug"],
                &["behind the curtain"],
                &["in a drawer"],
                &["under the bed"],
                &["in a boot"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} was {act}. Suddenly there was a loud crash! The {thing} had fallen to the \
                 floor.",
                "{One_day}, while {he} was {act}, {hero} bumped into the shelf. Down fell the {thing}, and \
                 it broke.",
                "{Hero} knew that {he} should be careful in the house. But {one_day}, {he} was {act}, and \
                 crash! The {thing} lay in pieces.",
            ],
            &[
                "It was the one that {his} {elder} loved best.",
                "It belonged to {his} {elder}.",
                "{His} {elder} had owned it for many years.",
            ],
        ],
        &[
            &[
                "{Hero} was scared. {He} hid the pieces {hide} and went to {his} room.",
                "\"Nobody must know,\" thought {hero}. Quickly {he} hid the pieces {hide}.",
                "{Hero} looked left and right. Then {he} put all the pieces {hide}.",
            ],
            &[
                "But {his} tummy felt [heavy|bad], as if {he} had eaten a stone. {He} could not \
                 [play|eat|sing].",
                "But at dinner, {he} could not eat. {He} kept thinking of the {thing}.",
                "But that night, {he} could not sleep. {He} turned left, and {he} turned right.",
                "But the secret got bigger and bigger inside {him}.",
            ],
            &[
                "At last {he} went to {his} {elder}. \"I broke the {thing},\" {he} [whispered|said]. \"I am \
                 so sorry.\"",
                "Then {he} took a deep breath. \"{Elder},\" {he} said, \"I was {act}, and I broke the \
                 {thing}. The pieces are {hide}.\"",
                "In the end {he} told the truth. \"It was me,\" {he} said, and a tear ran down {his} nose.",
            ],
        ],
        &[
            &[
                "{His} {elder} was quiet for a moment. Then {e_he} hugged {him}. \"Thank you for telling \
                 me,\" {e_he} said.",
                "\"I am a little sad,\" said {his} {elder}, \"but I am very glad that you told me the \
                 truth.\"",
                "{His} {elder} did not shout. \"Things can be mended,\" {e_he} said. \"Telling the truth \
                 takes courage.\"",
            ],
            &[
                "They took {mend} and mended the {thing} together.",
                "Together they got {mend}, and soon the {thing} was whole again.",
                "With {mend} and a lot of patience, they put the {thing} together again.",
            ],
            &[
                "It had a [few cracks|crooked line], but {hero} thought that it looked [even better than \
                 before|like a smile].",
                "{Hero} felt as light as a feather.",
                "After that, {hero} did {his} [dancing|jumping|playing] outside.",
                "And whenever {he} saw the {thing}, {hero} remembered that the truth is lighter than a \
                 secret.",
            ],
        ],
    ],
};

const NIGHT_NOISE: Plot = Plot {
    name: "night noise",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["noise", "cause", "after"],
            rows: &[
                &[
                    "Tap, tap, tap",
                    "only a branch that knocked on the window",
                    "waved good night to the tree",
                ],
                &[
                    "Scritch, scratch",
                    "only a tiny beetle that was looking for the door",
                    "carried the beetle outside on a leaf",
                ],
                &["Hoo, hoo", "only an owl that sat on the roof", "said good night to the owl"],
                &[
                    "Drip, drop",
                    "only the rain, which came through a hole in the roof",
                    "put a cup under the hole",
                ],
                &[
                    "Thump, thump",
                    "only a big moth that bumped into the lamp",
                    "opened the window and let the moth fly out",
                ],
                &[
                    "Creak, creak",
                    "only the old gate that swung in the wind",
                    "tied the gate shut with a string",
                ],
                &[
                    "Snore, snore",
                    "only {his} {elder}, fast asleep in the chair",
                    "put a blanket over {his} {elder}",
                ],
                &[
                    "Flap, flap",
                    "only a shirt that danced on the clothes line",
                    "laughed and took the shirt inside",
                ],
            ],
        },
        Choice {
            slots: &["guess1", "guess2"],
            rows: &[
                &["a dragon"],
                &["a giant"],
                &["a hungry wolf"],
                &["a ghost with cold feet"],
                &["a monster with green teeth"],
                &["a robber with a big sack"],
                &["a witch"],
            ],
        },
        Choice {
            slots: &["light"],
            rows: &[&["a lantern"], &["a candle"], &["a small lamp"], &["{his} brightest lamp"]],
        },
    ],
    paragraphs: &[
        &[
            &[
                "One night, {hero} lay in bed and could not sleep. It was very dark.",
                "One night, the moon hid behind the clouds, and {hero}'s room was as dark as a pocket.",
                "{Hero} did not like the dark. One night, {he} woke up and could not see a thing.",
                "One stormy night, {hero} pulled the blanket up to {his} chin.",
            ],
            &[
                "Then {he} heard a noise. \"{Noise}!\"",
                "\"{Noise}!\" What was that?",
                "Suddenly something went, \"{Noise}!\"",
            ],
        ],
        &[
            &[
                "\"It is {guess1},\" thought {hero}. {His} heart beat [fast|like a drum]. \"Or maybe \
                 {guess2}!\"",
                "Was it {guess1}? Was it {guess2}? {Hero} [shivered|hid under the blanket].",
                "{Hero} thought of {guess1}. Then {he} thought of {guess2}. That did not help at all.",
            ],
            &[
                "\"{Noise}!\" There it was again.",
                "It was quiet for a moment. Then it came again. \"{Noise}!\"",
                "The noise came closer. \"{Noise}!\"",
            ],
            &[
                "\"I will not be afraid of something that I have not seen,\" said {hero}. {He} took {light} \
                 and [tiptoed|crept] toward the noise.",
                "{Hero} took a deep breath. {He} lit {light} and went to look, one small step at a time.",
                "\"Being brave means being afraid and looking anyway,\" {his} {elder} always said. So {hero} \
                 took {light} and went to look.",
            ],
        ],
        &[
            &[
                "And what did {he} see? It was {cause}!",
                "{He} held up the light. It was {cause}.",
                "It was not {guess1}, and it was not {guess2}. It was {cause}!",
            ],
            &[
                "{Hero} [laughed out loud|had to giggle]. {He} {after}.",
                "\"So it was you!\" said {hero}, and {he} {after}.",
                "\"Silly me,\" said {hero}. {He} {after}, and then {he} yawned.",
            ],
            &[
                "Then {he} went back to bed, and soon {he} was [fast asleep|dreaming].",
                "The dark did not seem so dark anymore.",
                "In the morning, {he} told {his} {elder} all about it. \"My brave {kind},\" said {his} \
                 {elder}.",
                "From then on, whenever {he} heard a noise at night, {he} just went to look.",
            ],
        ],
    ],
};

const RAINY_PLAN: Plot = Plot {
    name: "rainy plan",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["plan", "pack", "indoors"],
        rows: &[
            &[
                "have a picnic {place}",
                "a blanket and {treat}",
                "spread the blanket on the floor and had a picnic under the table",
            ],
            &[
                "go camping {place}",
                "a tent and {treat}",
                "built a tent from chairs and sheets, right beside the bed",
            ],
            &[
                "go sailing on the lake",
                "two paddles and {treat}",
                "turned the bed into a ship and sailed around the world",
            ],
            &[
                "look for treasure {place}",
                "a map, a spade and {treat}",
                "drew a new map and hid treasure all over the house",
            ],
            &[
                "have a parade {place}",
                "flags, a drum and {treat}",
                "marched up and down the stairs with pots and spoons",
            ],
            &[
                "put on a play {place}",
                "costumes and {treat}",
                "hung up a sheet and made a shadow play with a lamp",
            ],
        ],
    }],
    paragraphs: &[
        &[
            &[
                "{Hero} and {his} friend {friend_full} had a plan. They wanted to {plan}.",
                "All week long, {hero} and {his} friend {friend_full} had talked of one thing. They wanted \
                 to {plan}.",
                "\"Tomorrow we will {plan},\" {hero} told {his} friend {friend_full}. They were so excited \
                 that they could hardly sleep.",
            ],
            &[
                "They packed {pack}.",
                "{Hero} packed {pack}, and {friend} brought a song.",
                "In the morning, they packed {pack} and put on their [boots|hats].",
            ],
            &[
                "But when they opened the door, it began to rain.",
                "But just then, plip, plop, it started to rain.",
                "But a big gray cloud came, and soon it was pouring.",
                "But the sky turned dark, and the rain came down like a curtain.",
            ],
        ],
        &[
            &[
                "They waited and waited. The rain did not stop.",
                "They sat at the window and counted the drops. There were too many.",
                "\"Please stop, rain,\" said {hero}. The rain only fell harder.",
            ],
            &[
                "\"Our day is spoiled,\" said {friend}[ sadly| with a sigh|].",
                "{Friend} looked as sad as a wet sock. \"Now we cannot go,\" {f_he} said.",
                "\"It is not fair,\" grumbled {friend}, and {f_he} kicked {f_his} boots into the corner.",
            ],
            &[
                "{Hero} looked around the room. Then {he} had an idea. \"Who says that we need to go \
                 outside?\" {he} asked.",
                "But {hero} began to smile. \"We do not need the sun,\" {he} said. \"We have everything \
                 here.\"",
                "Then {hero}'s {elder} came in. \"Why not do it in here?\" {e_he} asked. {Hero} jumped up. \
                 \"Yes!\" {he} cried.",
            ],
        ],
        &[
            &[
                "So they {indoors}.",
                "And so {hero} and {friend} {indoors}.",
                "They {indoors}. Even {hero}'s {elder} joined in.",
            ],
            &[
                "They ate {treat} and laughed until their bellies hurt.",
                "Outside the rain drummed on the roof, and inside they ate {treat}. It was [cozy|wonderful].",
                "The {treat} tasted better than ever.",
            ],
            &[
                "\"I hope that it rains tomorrow, too,\" said {friend}.",
                "When the sun came out at last, they did not even see it.",
                "\"That was the best rainy day ever,\" said {hero}, and {friend} nodded.",
                "A good plan, they found, can be bent without being broken.",
            ],
        ],
    ],
};

const SURPRISE: Plot = Plot {
    name: "surprise",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["busy1", "hint1_f", "hint1_e", "busy2", "hint2_f", "hint2_e"],
        rows: &[
            &["I must sweep the floor", "There was flour on {f_his} nose", "There was flour on {e_his} nose"],
            &["I have a bad cold", "But {f_he} did not sneeze once", "But {e_he} did not sneeze once"],
            &[
                "I must write a letter",
                "There was paint on {f_his} {hands}",
                "There was paint on {e_his} {hands}",
            ],
            &["I am looking for my hat", "The hat was on {f_his} head", "The hat was on {e_his} head"],
            &[
                "I must feed the hens",
                "{F_he} hid something behind {f_his} back",
                "{E_he} hid something behind {e_his} back",
            ],
            &["I have to water the plants", "But it had just rained", "But it had just rained"],
            &["I must count my socks", "{F_he} was trying not to smile", "{E_he} was trying not to smile"],
        ],
    }],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} woke up with a big smile. It was {his} birthday!",
                "{Hero} had counted the days on {his} {hands}. At last it was {his} birthday.",
                "\"Today is my birthday,\" {hero} told the mirror. The mirror smiled back.",
            ],
            &[
                "But {his} {elder} only said, \"Good morning,\" and went out.",
                "But at breakfast, nobody said a word about it.",
                "But there was no cake on the table, and nobody sang.",
            ],
        ],
        &[
            &[
                "{Hero} went to see {his} friend {friend_full}. \"Will you play with me?\" {he} asked. \"Not \
                 now,\" said {friend}. \"{Busy1}.\" {Hint1_f}.",
                "So {hero} ran to {his} friend {friend_full}. \"I cannot play,\" {friend} said quickly. \
                 \"{Busy1}.\" {Hint1_f}.",
            ],
            &[
                "Then {he} asked {his} {elder} to take a walk with {him}. \"I am busy, dear. {Busy2},\" said \
                 {his} {elder}. {Hint2_e}.",
                "Then {he} went back to {his} {elder}. \"Later,\" said {his} {elder}. \"{Busy2}.\" \
                 {Hint2_e}.",
            ],
            &[
                "\"Everyone has forgotten my birthday,\" thought {hero}. {He} walked {place} all alone and \
                 [threw stones into a puddle|talked to a snail].",
                "{Hero} sat {place} and felt [very alone|like the last leaf on a tree].",
                "{Hero} went out and sat {place}. {Aside} But {he} was too sad to notice.",
            ],
        ],
        &[
            &[
                "When it got dark, {he} went home. {He} opened the door. \"Surprise!\" shouted everyone.",
                "In the evening, {he} went home slowly. The house was dark. Then a hundred little lights \
                 went on. \"Surprise!\"",
                "At last {he} went home, opened the door, and could not believe {his} eyes. \"Happy \
                 birthday!\" everyone cried.",
            ],
            &[
                "There were {color} balloons, and there was {treat}. {Friend} held out a present. It was \
                 {a_toy}!",
                "{His} {elder} had made {treat}, and {friend} gave {him} {a_toy}.",
                "On the table stood {treat}, and beside it was {a_toy} with a/an {color} bow.",
            ],
            &[
                "\"We did not forget,\" said {friend}. \"We were just very bad at keeping secrets.\"",
                "\"So that is why you were all so strange!\" laughed {hero}.",
                "{Hero} hugged them all, one by one. \"This is the best birthday ever,\" {he} said.",
                "\"How could we forget you?\" said {his} {elder}. And they danced until the stars came out.",
            ],
        ],
    ],
};
