//! Plots of trying, failing, and trying again.

use super::{Cast, Choice, Plot};

/// See [`super::PLOTS`].
pub const PLOTS: &[Plot] = &[LEARN_SKILL, RACE, BIG_STAGE, ERRAND];

const LEARN_SKILL: Plot = Plot {
    name: "learn a skill",
    cast: Cast::Children,
    choices: &[
        Choice {
            slots: &["skill", "fall1", "fall2", "tip", "did"],
            rows: &[
                &[
                    "ride a bicycle",
                    "fell into a bush",
                    "rode into a puddle",
                    "Look at where you want to go, not at the ground",
                    "rode all the way to the end of the road",
                ],
                &[
                    "whistle",
                    "blew nothing but air",
                    "spat on {his} shirt",
                    "Make your lips as small as a cherry",
                    "whistled so well that a bird answered",
                ],
                &[
                    "skate",
                    "sat down on the ice",
                    "slid into a pile of snow",
                    "Bend your knees and do not hurry",
                    "skated in a big circle",
                ],
                &[
                    "swim",
                    "swallowed half the lake",
                    "sank like a stone",
                    "Lie on the water as if it were your bed",
                    "swam all the way to the raft",
                ],
                &[
                    "juggle three apples",
                    "dropped all of them",
                    "got an apple on the nose",
                    "Start with one, and then take two",
                    "kept three apples in the air",
                ],
                &[
                    "jump rope",
                    "got tangled up like a fish in a net",
                    "lost a shoe",
                    "Listen to the rope and jump when it sings",
                    "jumped a hundred times",
                ],
                &[
                    "walk on stilts",
                    "fell over backward",
                    "landed in the hay",
                    "Small steps, and never stand still",
                    "walked across the yard like a giant",
                ],
                &[
                    "row a boat",
                    "went around in circles",
                    "lost an oar",
                    "Pull with both arms, and as gently as you can",
                    "rowed straight across the pond",
                ],
                &[
                    "play the flute",
                    "made a noise like a sick goose",
                    "made a noise like a rusty door",
                    "Blow as if you were cooling soup",
                    "played a whole song",
                ],
                &[
                    "stand on {his} hands",
                    "fell on {his} nose",
                    "kicked over a chair",
                    "Look at one spot, and think of nothing else",
                    "stood on {his} hands for as long as it takes to count to ten",
                ],
            ],
        },
        Choice {
            slots: &["try_count", "times"],
            rows: &[
                &["three", "the fourth"],
                &["five", "the sixth"],
                &["six", "the seventh"],
                &["nine", "the tenth"],
                &["ten", "the eleventh"],
                &["twenty", "the last"],
            ],
        },
    ],
    paragraphs: &[
        &[&[
            "More than anything, {he} wanted to {skill}. {One_day}, {he} made up {his} mind to learn it.",
            "All the children in the street could {skill}, but {hero} could not. {One_day}, {he} went out to \
             try.",
            "{One_day}, {he} saw somebody {skill}. \"I want to do that, too!\" {he} said.",
        ]],
        &[
            &[
                "On {his} first try, {hero} {fall1}. On {his} second try, {he} {fall2}.",
                "First {he} {fall1}. Then {he} {fall2}.",
                "{He} tried, and {fall1}. {He} tried again, and {fall2}.",
            ],
            &[
                "\"I will never learn it,\" said {hero}[ sadly|, and {he} kicked a stone|].",
                "{Hero} was ready to give up. \"It is too hard for me,\" {he} said.",
                "\"Some people just cannot {skill},\" {he} said with a sigh.",
            ],
            &[
                "\"Everyone falls at first,\" said {his} friend {friend_full}. \"Here is a secret. {Tip}.\"",
                "{His} {elder} had been watching. \"I needed a whole summer to learn it,\" {e_he} said. \
                 \"{Tip}.\"",
                "\"You cannot do it yet,\" said {his} {elder}. \"Yet is a very good word. And here is \
                 another thing. {Tip}.\"",
            ],
            &[
                "{Hero} tried {try_count} more times. Each time it went a little better.",
                "The next day, {he} tried again, and the day after that. {He} tried it {try_count} times.",
                "{Hero} nodded. {He} practiced before breakfast, and {he} practiced after school.",
            ],
        ],
        &[
            &[
                "And then, all at once, {he} {did}!",
                "Then, one day, without even thinking about it, {he} {did}.",
                "The wind held its breath. {Hero} held {his} breath, too. And {he} {did}!",
            ],
            &[
                "\"I can do it!\" {he} shouted. \"I can {skill}!\"",
                "\"Look at me!\" cried {hero}, and everyone cheered.",
                "\"Did you see that?\" {he} asked. \"I saw it,\" said {his} {elder}, and {e_he} was very \
                 proud.",
            ],
            &[
                "Now, when somebody says that something is too hard, {hero} just smiles.",
                "The next week, {hero} taught a smaller child to {skill}. \"Everyone falls at first,\" {he} \
                 said.",
                "That night, {he} dreamed that {he} could {skill} on the moon.",
                "It was only hard until it was easy.",
            ],
        ],
    ],
};

const RACE: Plot = Plot {
    name: "the race",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["contest", "goal"],
            rows: &[
                &["race", "the old windmill"],
                &["race", "the top of the hill"],
                &["boat race", "the far side of the lake"],
                &["race", "the tree with the swing"],
                &["sled race", "the bottom of the hill"],
                &["race", "the red gate"],
            ],
        },
        Choice {
            slots: &["delay", "helped"],
            rows: &[
                &["a beetle that lay on its back", "turned it over"],
                &["a snail in the middle of the path", "carried it to the side"],
                &["an old woman who had dropped her apples", "picked them all up for her"],
                &["a baby bird that had fallen from its nest", "put it back"],
                &["a lamb with its foot caught in the fence", "set it free"],
                &["a fish that had jumped onto the shore", "put it back into the water"],
                &["a small boy who had lost his shoe", "helped him to find it"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, there was a {contest} to {goal}. {Hero} wanted to win. So did {friend_full}, who \
                 was very fast.",
                "Every year, there was a {contest} to {goal}. {Friend_full} had won it three times. This \
                 year, {hero} wanted to try, too.",
                "{Friend_full} liked to boast. \"I am the fastest of all,\" {f_he} said. \"Let us have a \
                 {contest} to {goal}!\" {Hero} was slow, but {he} said yes.",
            ],
            &[
                "\"You will never beat me,\" said {friend}, and {f_he} laughed.",
                "\"I will wait for you at the end,\" said {friend}. \"Maybe I will take a nap.\"",
                "\"May the best one win,\" said {hero}. \"That is me,\" said {friend}.",
            ],
        ],
        &[
            &[
                "\"One, two, three, go!\" {Friend} was off like the wind. {Hero} went as fast as {he} could.",
                "The bell rang, and they were off. Soon {friend} was far ahead.",
                "\"Ready, steady, go!\" At first they were side by side. Then {friend} pulled ahead.",
            ],
            &[
                "Halfway there, {hero} saw {delay}. {He} stopped and {helped}.",
                "Then {hero} came upon {delay}. \"The {contest} can wait,\" {he} said. {He} stopped and \
                 {helped}.",
                "On the way, there was {delay}. {Friend} had rushed right past. But {hero} stopped and \
                 {helped}.",
            ],
            &[
                "{Friend} looked back. Nobody was there. \"I have so much time,\" {f_he} thought, and {f_he} \
                 sat down for a rest. Soon {f_he} was asleep.",
                "But {friend} was so busy looking back that {f_he} took the wrong turn.",
                "{Friend} reached {goal} first. But when {f_he} turned around, nobody was looking at \
                 {f_him}. They were all looking at {hero}.",
            ],
        ],
        &[
            &[
                "{Hero} got to {goal} at last, and everyone clapped. \"We saw what you did on the way,\" \
                 they said.",
                "When {hero} came to {goal}, {he} heard loud cheers. They were for {him}!",
                "Step by step, {hero} went on, until {he} came to {goal}. A crowd was waiting there with \
                 flowers for {him}.",
            ],
            &[
                "{Friend} was quiet. Then {f_he} held out {f_his} {hand}. \"You won in the way that \
                 counts,\" {f_he} said.",
                "\"I never even saw that somebody needed help,\" said {friend}. \"Next time, I will look.\"",
                "\"I was fast,\" said {friend}, \"but you were kind.\"",
            ],
            &[
                "They shared the prize, which was {treat}.",
                "And the next year, they went together, side by side.",
                "Being first is nice, but being kind lasts longer.",
                "Then they went home together, and neither of them hurried.",
            ],
        ],
    ],
};

const BIG_STAGE: Plot = Plot {
    name: "the big stage",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["act", "acted"],
            rows: &[
                &["sing a song", "sang"],
                &["read a poem", "read"],
                &["play the drum", "played"],
                &["dance like a leaf", "danced"],
                &["tell a story", "told {his} story"],
                &["be the sun in the play", "shone like the sun"],
                &["play the violin", "played"],
            ],
        },
        Choice {
            slots: &["worry1", "came_true", "worry2", "spare"],
            rows: &[
                &["I trip and fall", "{he} tripped over {his} own feet"],
                &["I forget everything", "{he} forgot everything"],
                &["they all laugh at me", "somebody laughed"],
                &["my voice runs away", "{his} voice ran away"],
                &["my knees shake", "{his} knees began to shake"],
                &["I get the hiccups", "{he} got the hiccups"],
                &["my hat falls over my eyes", "{his} hat fell over {his} eyes"],
            ],
        },
        Choice {
            slots: &["advice", "advice_done"],
            rows: &[
                &["Look only at me, as if we were at home", "looked at {his} {elder} and at nobody else"],
                &[
                    "Think of them all in their pajamas",
                    "thought of them all in their pajamas, and nearly giggled",
                ],
                &["Take three deep breaths", "took one breath, two breaths, three breaths"],
                &[
                    "Put this button in your pocket, and hold it when you are scared",
                    "put {his} {hand} in {his} pocket and felt the little button",
                ],
                &[
                    "Do it for the smallest one in the room",
                    "looked for the smallest one in the room, and smiled at her",
                ],
            ],
        },
    ],
    paragraphs: &[
        &[&[
            "{One_day}, there was going to be a big show, and {hero} was going to {act}.",
            "{Hero} could {act} better than anyone, but only when {he} was alone. {One_day}, {he} was asked \
             to do it in front of everyone.",
            "\"Will you {act} at the fair?\" asked {his} friend {friend_full}. \"Yes,\" said {hero}. But \
             that night, {he} wished that {he} had said no.",
        ]],
        &[
            &[
                "\"What if {worry1}?\" {he} thought. \"What if {worry2}?\"",
                "\"I cannot do it, {Elder},\" {he} said. \"What if {worry1}? And what if {worry2}?\"",
            ],
            &[
                "\"{Advice},\" said {his} {elder}. \"It always works.\"",
                "{His} {elder} gave {him} a hug. \"{Advice},\" {e_he} whispered.",
            ],
            &[
                "Then it was time. {Hero} stepped out. So many eyes! {His} mouth went dry.",
                "The curtain opened. {Hero} could hear {his} own heart go thump, thump.",
                "{Hero} walked to the middle of the stage. It had never been so far.",
            ],
            &[
                "For a moment, nothing came. Somebody coughed.",
                "\"Good luck,\" whispered {his} friend {friend_full} from behind the curtain.",
                "And then, of course, {came_true}.",
            ],
        ],
        &[
            &[
                "Then {he} {advice_done}. And {he} began.",
                "But {hero} {advice_done}. Something inside {him} grew calm.",
            ],
            &[
                "{He} {acted}, quietly at first, and then with all {his} heart.",
                "{He} {acted} as {he} had never done before.",
            ],
            &[
                "When it was over, it was very still. Then everyone jumped up and clapped.",
                "The clapping was so loud that the lamps shook.",
                "\"More! More!\" everyone called.",
            ],
            &[
                "\"Were you scared?\" asked {his} {elder}. \"Yes,\" said {hero}. \"But it was a good kind of \
                 scared.\"",
                "\"May I do it again tomorrow?\" asked {hero}.",
                "{Hero} bowed so low that {his} hat fell off. Nobody minded, least of all {hero}.",
                "After that, the stage never seemed so big again.",
            ],
        ],
    ],
};

const ERRAND: Plot = Plot {
    name: "brave errand",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["old_one"],
            rows: &[
                &["old Captain Reed"],
                &["old Miss Moss"],
                &["old Doctor Bell"],
                &["old Aunt Rose"],
                &["old Uncle Fred"],
                &["old Mother Goose"],
            ],
        },
        Choice {
            slots: &["carry", "reason"],
            rows: &[
                &["pot of soup", "is sick in bed"],
                &["warm blanket", "is always cold"],
                &["basket of eggs", "wants to bake"],
                &["jar of honey", "has a sore throat"],
                &["lantern", "is alone in the dark"],
                &["letter", "is waiting for news"],
            ],
        },
        Choice {
            slots: &["block1", "solve1", "block2", "solve2"],
            rows: &[
                &["a stream with no bridge", "stepped from stone to stone"],
                &["a big dog that growled", "spoke to it softly, until it wagged its tail"],
                &["a tall gate that was locked", "found a hole in the hedge and crawled through"],
                &["a fog so thick that {he} could not see the path", "followed the sound of the church bell"],
                &[
                    "a goose that wanted to bite",
                    "bowed and said good morning, and the goose was so surprised that it let {him} pass",
                ],
                &["a fallen tree", "climbed over it, holding the {carry} high"],
                &["a crossing with three paths", "chose the one with the footprints"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {his} {elder} said, \"Please take a {carry} to {old_one}, who {reason}. Can you \
                 go all alone?\"",
                "{One_day}, {hero} heard that {old_one}, who lived on the other side of the woods, needed \
                 help. \"{Old_one} {reason},\" said {his} {elder}. \"Will you take a {carry} there?\"",
            ],
            &[
                "\"Yes,\" said {hero}, though {his} knees felt soft.",
                "\"I can do it,\" said {hero}. {He} had never gone so far alone.",
                "{Hero} swallowed. Then {he} nodded.",
            ],
        ],
        &[
            &[
                "{He} walked and walked. {Aside} Then {he} came to {block1}.",
                "It was not long before {he} came to {block1}.",
            ],
            &[
                "\"What now?\" thought {hero}. {He} {solve1}.",
                "{Hero} wanted to turn back. But {he} thought of {old_one}. So {he} {solve1}.",
            ],
            &[
                "A little later, there was {block2}. \"I did it once,\" said {hero}, \"so I can do it \
                 twice.\" {He} {solve2}.",
                "Then, around a bend, there was {block2}. {Hero} took a deep breath. {He} {solve2}.",
            ],
        ],
        &[
            &[
                "At last {he} saw a small house with smoke above the roof. {Old_one} opened the door. \"Is \
                 that for me?\" asked {old_one}.",
                "When the sun was low, {he} knocked at a small door. \"Who is there?\" called {old_one}. \
                 \"It is only me,\" said {hero}, \"with a {carry}.\"",
            ],
            &[
                "They ate {treat} and told each other stories, and {hero} forgot how tired {he} was.",
                "\"You came all this way alone?\" said {old_one}. \"You must be the bravest {kind} that I \
                 know.\"",
            ],
            &[
                "On the way home, everything seemed smaller, the woods, and the stream, and the fear.",
                "{His} {elder} was waiting at the gate. \"How was it?\" {e_he} asked. \"Far,\" said {hero}, \
                 \"but not too far.\"",
                "And from then on, {hero} went there every week.",
                "{Hero} walked home under the stars, and {he} was not afraid of anything.",
            ],
        ],
    ],
};
