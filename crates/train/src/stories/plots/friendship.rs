//! Plots between friends: sharing, trusting, helping, finding one another.

use super::{Cast, Choice, Plot};

/// See [`super::PLOTS`].
pub const PLOTS: &[Plot] = &[SHARE_TOY, NEW_NEIGHBOR, FALSE_ALARM, WISH, DRAGON];

const SHARE_TOY: Plot = Plot {
    name: "share a toy",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["mishap"],
        rows: &[
            &["Then there was a small, sad crack"],
            &["Then, oops, both of them fell down"],
            &["Then the {toy} flew through the air and landed in a bush"],
            &["Then the {toy} slipped away and fell into a puddle"],
            &["Then both of them began to cry"],
        ],
    }],
    paragraphs: &[
        &[&[
            "{Hero} had {a_toy}. {One_day}, {his} friend {friend_full} came to visit. {Friend} wanted to \
             {do_toy}, too.",
            "{One_day}, {hero} and {his} friend {friend_full} found {a_toy} {place}. They both wanted to \
             {do_toy}.",
            "For {his} birthday, {hero} got {a_toy}. All day {he} {played_toy}. Then {his} friend \
             {friend_full} came. \"May I try?\" asked {friend}.",
        ]],
        &[
            &[
                "\"It is mine!\" said {hero}. \"No, it is my turn!\" said {friend}.",
                "\"No,\" said {hero}. \"You might break it.\" {Friend} frowned. \"I will not!\" {f_he} said.",
                "\"Me first!\" shouted {hero}. \"No, me first!\" shouted {friend}.",
            ],
            &[
                "{Hero} pulled on one side, and {friend} pulled on the other. {Mishap}.",
                "They pulled and pulled. {Mishap}.",
                "{Friend} grabbed the {toy}. {Hero} did not let go. {Mishap}.",
            ],
            &[
                "They [looked at each other|sat down back to back]. Nobody was having fun.",
                "{Hero} sat in one corner, and {friend} sat in the other. It was very quiet.",
                "\"Now look what we did,\" said {friend}.",
            ],
            &[
                "{Hero} held the {toy} for a while. It was no fun to play alone.",
                "{Hero}'s {elder} heard them. \"A toy is only half a toy when you play alone,\" {e_he} said.",
                "Then {hero} thought, \"I can have a {toy}, or I can have a {toy} and a friend.\"",
            ],
        ],
        &[
            &[
                "\"I am sorry,\" said {hero}. \"You can have the first turn.\" {Friend} smiled. \"I am \
                 sorry, too,\" {f_he} said.",
                "\"Let us do it together,\" said {hero}. \"Really?\" asked {friend}. \"Really,\" said \
                 {hero}.",
                "{Hero} got up. \"Here,\" {he} said, and held out the {toy}. {Friend} shook {f_his} head. \
                 \"Both of us,\" {f_he} said.",
            ],
            &[
                "{Together_toy}. Then they changed places.",
                "So they shared. {Together_toy}.",
                "{Together_toy}. It was twice as much fun.",
            ],
            &[
                "They played until the stars came out.",
                "At the end of the day, the {toy} was tired, but {hero} and {friend} were not.",
                "\"The {toy} likes two friends better than one,\" said {hero}.",
                "Then they shared {treat}, and that was easy.",
                "\"Will you come again tomorrow?\" asked {hero}. And {friend} did.",
            ],
        ],
    ],
};

const NEW_NEIGHBOR: Plot = Plot {
    name: "new neighbor",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["try1", "react1", "try2", "react2"],
            rows: &[
                &["waved", "looked at {f_his} feet"],
                &["said hello", "ran inside"],
                &["rolled a ball across the grass", "rolled it back without a word"],
                &["left {treat} at the door", "ate everything, but only when nobody was looking"],
                &["sang a funny song", "hid a smile behind {f_his} {hands}"],
                &["asked {f_him} to play", "shook {f_his} head"],
            ],
        },
        Choice {
            slots: &["skill", "skill_ask", "skill_done"],
            rows: &[
                &[
                    "drawing a bird in the sand",
                    "Can you draw me one, too",
                    "drew birds until the whole path was full of wings",
                ],
                &[
                    "building a tiny boat",
                    "Can it swim",
                    "built ten little boats and sent them down the stream",
                ],
                &["whistling like a bird", "Will you teach me that", "whistled until all the birds answered"],
                &[
                    "making a crown of flowers",
                    "Is it for a king",
                    "made crowns for everyone, even for the snail",
                ],
                &[
                    "stacking stones into a tower",
                    "How high can it go",
                    "stacked the stones until the tower was taller than both of them",
                ],
                &["talking to a beetle", "What does it say", "asked the beetle a hundred questions"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, somebody new moved in next door. It was {friend_intro}.",
                "{One_day}, a cart full of boxes stopped next door. Behind the boxes sat {friend_intro}.",
                "The home next door had been empty for a long time. Then, {one_day}, {friend_intro} moved \
                 in.",
            ],
            &[
                "{Friend} was very shy and did not say a word.",
                "{Hero} was excited, but {friend} seemed to be afraid of everyone.",
                "\"A new friend!\" thought {hero}. But {friend} only looked out of the window.",
            ],
        ],
        &[
            &["{Hero} {try1}, and {friend} {react1}.", "First {hero} {try1}. {Friend} {react1}."],
            &["The next day, {hero} {try2}. {Friend} {react2}.", "So {hero} {try2}. {Friend} {react2}."],
            &[
                "\"{Friend} does not like me,\" {hero} told {his} {elder}. \"Give it time,\" said {his} \
                 {elder}. \"A shy heart opens like a flower.\"",
                "\"Maybe {f_he} misses {f_his} old home,\" said {hero}'s {elder}. {Hero} had not thought of \
                 that.",
                "{Hero} almost gave up. But then {he} thought of how it must feel to be new.",
            ],
        ],
        &[
            &[
                "Then {hero} saw {friend} {skill}. {He} did not shout or run. {He} just sat down nearby. \
                 \"{Skill_ask}?\" {he} asked.",
                "One morning, {friend} was {skill}. {Hero} came closer, very quietly. \"{Skill_ask}?\" asked \
                 {hero}.",
            ],
            &[
                "{Friend} looked up. And then, for the first time, {f_he} smiled.",
                "{Friend} did not answer. But {f_he} moved over a little to make room.",
                "{Friend}'s eyes grew bright. \"Sit here,\" {f_he} said.",
            ],
            &["Together they {skill_done}.", "That day they {skill_done}."],
            &[
                "Now they are best friends, and {friend} talks so much that {hero} can hardly get a word in.",
                "\"I was afraid that nobody here would like me,\" said {friend}. \"I like you,\" said \
                 {hero}.",
                "And the next time that somebody new moved in, {friend} was the first to say hello.",
            ],
        ],
    ],
};

const FALSE_ALARM: Plot = Plot {
    name: "false alarm",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["alarm", "real", "saved"],
        rows: &[
            &[
                "The bridge is broken",
                "the bridge really broke, and {hero} stood on the wrong side",
                "laid a long board over the water",
            ],
            &[
                "A bull is coming",
                "a big bull really came down the lane",
                "opened a gate, and {hero} jumped through it just in time",
            ],
            &[
                "The river is rising",
                "the river really rose, and {hero} was sitting on a small rock",
                "threw {him} a long rope",
            ],
            &[
                "There is a snake in the grass",
                "a real snake lay on the path and hissed",
                "chased it away with a broom",
            ],
            &[
                "A wolf is at the gate",
                "a real wolf stood at the gate and showed its teeth",
                "banged two pots together until the wolf ran away",
            ],
            &[
                "The boat is sinking",
                "there was a real hole in the boat, and {hero} sat in it",
                "came with a second boat",
            ],
            &[
                "The goats are in the garden",
                "seven goats really broke down the fence, and {hero} could not stop them",
                "led all the goats away with a cabbage",
            ],
        ],
    }],
    paragraphs: &[
        &[
            &[
                "{Hero} loved to play tricks. {One_day}, {he} shouted, \"Help! {Alarm}!\"",
                "{One_day}, {hero} was bored. \"Help! {Alarm}!\" {he} cried, as loud as {he} could.",
            ],
            &[
                "{His} friend {friend_full} came running, out of breath. But there was nothing there.",
                "{His} friend {friend_full} dropped everything and ran to help. But there was no danger at \
                 all.",
            ],
            &[
                "{Hero} laughed and laughed. \"I tricked you!\" {he} said.",
                "\"It was only a joke!\" said {hero}. {Friend} did not think that it was funny.",
            ],
        ],
        &[
            &[
                "The next day, {he} did it again. \"Help! {Alarm}!\" And again {friend} came running. \"That \
                 is not nice,\" said {friend}.",
                "A little later, {he} did it again, and again {friend} came. \"Please do not do that,\" \
                 {friend} said.",
            ],
            &["But on the third day, {real}.", "And then, one evening, {real}."],
            &[
                "\"Help! {Alarm}!\" cried {hero}. \"This time it is true!\"",
                "\"Help! Please help!\" {hero} cried. \"It is not a joke!\"",
            ],
            &[
                "{Friend} heard it. \"Another trick,\" {f_he} thought, and {f_he} went on working. {Hero} \
                 called until {his} voice was small.",
                "But nobody came. Who would believe {him} now?",
                "{Friend} shook {f_his} head. \"Not again,\" {f_he} said. {Hero} waited and waited.",
            ],
        ],
        &[
            &[
                "But the voice did not sound like a joke, so {friend} went to look after all. {F_he} \
                 {saved}.",
                "Then {friend} thought, \"But what if it is true?\" {F_he} ran as fast as {f_he} could and \
                 {saved}.",
            ],
            &[
                "\"I am so sorry,\" said {hero}. \"I will never trick you like that again.\"",
                "{Hero} was very quiet. \"Thank you for coming,\" {he} said. \"I would not have come, if I \
                 were you.\"",
            ],
            &[
                "\"A friend comes even the third time,\" said {friend}. \"But please, let there not be a \
                 fourth.\"",
                "And {he} kept {his} word. Now, when {hero} tells a joke, {he} tells it with a smile, so \
                 that everyone knows.",
                "From that day on, {hero} only called for help when {he} needed help.",
                "{Hero} had learned that trust is like glass. It takes a long time to make, and only a \
                 moment to break.",
            ],
        ],
    ],
};

const WISH: Plot = Plot {
    name: "one wish",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["magic", "found_it"],
            rows: &[
                &["bell", "hanging on a bush"],
                &["stone", "lying at the bottom of a stream"],
                &["feather", "floating down from the sky"],
                &["shell", "half hidden in the sand"],
                &["key", "in the pocket of an old coat"],
                &["acorn", "rolling down the hill all by itself"],
                &["lamp", "standing behind an old door"],
            ],
        },
        Choice {
            slots: &["dream1", "dream2"],
            rows: &[
                &["a mountain of cake"],
                &["a pair of wings"],
                &["a castle with a hundred rooms"],
                &["a boat that can fly"],
                &["a day that never ends"],
                &["a horse as white as snow"],
                &["a hat that makes you invisible"],
                &["a river of lemonade"],
            ],
        },
        Choice {
            slots: &["sorrow", "sorrow_why", "healed"],
            rows: &[
                &[
                    "{f_his} leg hurt",
                    "I fell, and now I cannot run anymore",
                    "{friend}'s leg was as good as new, and {f_he} could run",
                ],
                &[
                    "{f_his} garden was dry",
                    "It has not rained for weeks, and all my flowers are dying",
                    "rain began to fall, and every flower lifted its head",
                ],
                &[
                    "{f_his} little brother was lost",
                    "My little brother went out, and he has not come back",
                    "a small voice called from the hill, and {friend}'s brother came running home",
                ],
                &[
                    "{f_he} could not sing anymore",
                    "I had a bad cold, and my voice did not come back",
                    "{friend} opened {f_his} mouth, and out came the most beautiful song",
                ],
                &[
                    "{f_his} roof had a big hole",
                    "The storm took my roof, and winter is coming",
                    "the roof was whole, with a new {color} chimney on top",
                ],
                &[
                    "{f_he} was always cold",
                    "My fire went out, and I cannot light it again",
                    "a warm fire was dancing in {friend}'s stove",
                ],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} found a/an {color} {magic}, {found_it}.",
                "{One_day}, something was shining. It was a/an {color} {magic}, {found_it}.",
            ],
            &[
                "\"I have one wish to give,\" said the {magic}. \"Think well!\"",
                "When {he} touched it, it began to glow. \"One wish,\" said a tiny voice. \"Only one.\"",
                "\"Good day,\" said the {magic}. {Hero} nearly dropped it. \"You may make one wish,\" it \
                 said.",
            ],
        ],
        &[
            &[
                "One wish! {Hero} thought of {dream1}. Then {he} thought of {dream2}.",
                "\"I could wish for {dream1},\" said {hero}, \"or for {dream2}.\"",
                "\"{Dream1}!\" thought {hero}. \"No, wait. {Dream2}!\" It was so hard to choose.",
            ],
            &[
                "On the way home, {he} met {friend_intro}. {Friend} was crying, because {sorrow}.",
                "Just then {friend_intro} came along. {F_he} looked very sad, because {sorrow}.",
            ],
            &[
                "\"What is the matter?\" asked {hero}. \"{Sorrow_why},\" said {friend}.",
                "\"{Sorrow_why},\" said {friend}, and a big tear fell down.",
            ],
        ],
        &[
            &[
                "{Hero} looked at the {magic}. {He} thought once more of {dream1}. Then {he} closed {his} \
                 eyes. \"I wish that {friend} were happy again,\" {he} said.",
                "{Hero} did not think for long. {He} held up the {magic} and said, \"Please help {friend}. \
                 That is my wish.\"",
                "{Hero} forgot about {dream1}, and {he} forgot about {dream2}. Out loud {he} said, \"I wish \
                 for {friend} to be well.\"",
            ],
            &[
                "The {magic} [glowed|rang|trembled] one last time. And then, {healed}!",
                "There was a soft light. And when it was gone, {healed}.",
            ],
            &[
                "\"How can I ever thank you?\" asked {friend}. \"You can play with me,\" said {hero}.",
                "{Friend} threw {f_his} arms around {hero}, and they danced in the lane.",
            ],
            &[
                "After that, the {magic} was just a plain old {magic}. But {hero} kept it all {his} life.",
                "The {magic} never spoke again. But {hero} did not mind, because {he} had a friend.",
                "\"That,\" said the {magic} very quietly, \"was the best wish that I ever gave.\"",
            ],
        ],
    ],
};

const DRAGON: Plot = Plot {
    name: "a dragon's use",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["giant"],
            rows: &[
                &["a small {color} dragon"],
                &["a very young dragon"],
                &["a dragon no bigger than a cow"],
                &["a shy {color} dragon"],
            ],
        },
        Choice {
            slots: &["need", "need_use"],
            rows: &[
                &[
                    "the oven of the baker had gone cold, and there was no bread",
                    "blew one small flame into the oven, and soon the whole street smelled of bread",
                ],
                &[
                    "all the washing was wet, and there was no sun",
                    "blew warm air along the line, and all the shirts were dry in a minute",
                ],
                &[
                    "the street lamps had gone out in the storm",
                    "flew from lamp to lamp and lit them, one by one",
                ],
                &[
                    "the pond had frozen, and the ducks had no water",
                    "breathed on the ice until it was a pond again",
                ],
                &[
                    "it was so cold that everyone stayed in bed",
                    "sat down in the middle of the square, as warm as a stove, and everyone came out",
                ],
                &[
                    "the ship could not find the harbor in the fog",
                    "sat on a rock and blew a bright flame, and the ship came safely home",
                ],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} heard somebody crying {place}. It was {giant}.",
                "{One_day}, {he} was walking {place} when {he} saw smoke. In the middle of the smoke sat \
                 {giant}.",
                "{One_day}, {hero} found a big footprint {place}. {He} followed it, and there sat {giant}.",
            ],
            &[
                "\"Please do not run away,\" said the dragon. \"Everyone runs away.\"",
                "\"Are you going to eat me?\" asked {hero}. \"No,\" said the dragon. \"I only eat {treat}.\"",
                "{Hero} wanted to run, but the dragon looked so sad that {he} stayed.",
            ],
        ],
        &[
            &[
                "\"Why are you sad?\" asked {hero}. \"I have no friends,\" said the dragon. \"They are all \
                 afraid of my fire.\"",
                "\"When I laugh, I make fire,\" said the dragon. \"So nobody tells me jokes.\"",
                "\"I am no use to anyone,\" said the dragon. \"All I can do is make fire.\"",
            ],
            &[
                "{Hero} thought about it. \"Come with me,\" {he} said.",
                "\"Fire is not bad,\" said {hero}. \"It only needs the right place.\" And {he} took the \
                 dragon home.",
                "{Hero} sat down beside the dragon. \"Then I will be your friend,\" {he} said, and they \
                 walked home together.",
            ],
            &[
                "That winter, {need}. Nobody knew what to do.",
                "The very next day, {need}. \"What shall we do?\" everyone asked.",
                "It so happened that {need}. {Hero}'s friend {friend_full} was worried, too.",
            ],
        ],
        &[
            &[
                "\"I know somebody who can help,\" said {hero}. The dragon {need_use}.",
                "\"Now,\" {hero} whispered to the dragon, \"now is the time.\" And the dragon {need_use}.",
                "{Hero} looked at the dragon, and the dragon looked at {hero}. Then the dragon {need_use}.",
            ],
            &[
                "\"Hooray for the dragon!\" everyone shouted.",
                "\"What a good dragon!\" said {his} {elder}.",
                "Everyone clapped, and somebody brought {treat} for the dragon.",
            ],
            &[
                "The dragon turned pink, and laughed, and only a very small flame came out.",
                "From that day on, the dragon was never alone again.",
                "Now {hero} tells the dragon a joke every evening. There is always a bucket of water nearby.",
                "\"You see,\" said {hero}, \"you only had to be warm.\"",
            ],
        ],
    ],
};
