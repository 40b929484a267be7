//! Plots under the open sky: creatures, weather, water, snow.

use super::{Cast, Choice, Plot};

/// See [`super::PLOTS`].
pub const PLOTS: &[Plot] = &[LOST_BABY, STUCK_PET, BERRIES, MELTING, MOON, LETTER_BOAT, COUNTING];

const LOST_BABY: Plot = Plot {
    name: "lost baby",
    cast: Cast::Children,
    choices: &[Choice {
        slots: &["ask1", "answer1", "ask2", "answer2"],
        rows: &[
            &["the baker", "I have seen nobody but customers today"],
            &[
                "an old man on a bench",
                "My eyes are not so good, but my ears are. I heard a worried call over there",
            ],
            &["the farmer", "Not one of mine, but look over there"],
            &["a crow on the fence", "Caw, caw"],
            &["the postman", "I have many letters, but none for somebody so small"],
            &["a frog", "Not here, not here"],
            &["a girl with a red bicycle", "I rode past somebody who was looking for somebody"],
        ],
    }],
    paragraphs: &[
        &[
            &[
                "{One_day}, {he} was playing {place} when {he} heard a small voice. \"{Says}!\" It was a/an \
                 {baby}, all alone.",
                "{One_day}, {hero} was walking {place}. {Aside} Then {he} saw a/an {baby} under a bush. \
                 \"{Says},\" it said sadly.",
                "{One_day}, {hero} found a tiny {baby} {place}. It was shaking. \"{Says}!\" it cried.",
            ],
            &[
                "\"Are you lost, little one?\" asked {hero}.",
                "\"Poor little {baby},\" said {hero}. \"Where is your mother?\"",
                "\"Do not be afraid,\" said {hero}[ softly|]. \"I will help you.\"",
            ],
        ],
        &[
            &[
                "{He} gave it {food}. The {baby} ate every bit and felt better.",
                "{Hero} shared {food} with the {baby}, and it stopped shaking.",
                "{He} wrapped the {baby} in {his} {color} scarf and gave it {food}.",
            ],
            &[
                "Then {he} asked {ask1}, \"Do you know where its mother is?\" \"{Answer1},\" was the answer.",
                "They set out together. First they met {ask1}. \"{Answer1},\" they heard.",
                "They walked until they met {ask1}. \"Whose {baby} is this?\" asked {hero}. \"{Answer1},\" \
                 was the answer.",
            ],
            &[
                "Next they asked {ask2}. \"{Answer2},\" came the answer.",
                "They went on, and asked {ask2}, too. \"{Answer2},\" they were told.",
            ],
            &[
                "The {baby} was tired, so {hero} carried it.",
                "The {baby} began to droop. \"We will not give up,\" said {hero}.",
                "\"{Says},\" said the {baby}. That meant, \"Are we there yet?\"",
            ],
        ],
        &[
            &[
                "At last they came to a/an {mother} {where}. \"{Says}!\" cried the {baby}, and it ran to her \
                 as fast as it could.",
                "And there, {where}, stood a/an {mother} who was calling and calling. It was the mother of \
                 the {baby}!",
                "Then the {baby} lifted its head. {Where}, a/an {mother} was waiting. The {baby} ran \
                 straight to her.",
            ],
            &[
                "The {mother} [rubbed her head on {hero}'s {hand}|looked at {hero} for a long time]. That is \
                 how a/an {mother} says thank you.",
                "The {mother} washed her {baby} from top to bottom, and {hero} laughed.",
                "They were so happy that {hero} had to wipe {his} eyes.",
            ],
            &[
                "{Hero} walked home [alone|in the evening sun], but {he} did not feel lonely at all.",
                "After that, the {baby} came to visit {hero} every day.",
                "When {hero} told {his} {elder}, {e_he} said, \"You gave it the best thing in the world. You \
                 gave it time.\"",
                "Now, whenever {hero} passes by, somebody says, \"{Says}!\"",
            ],
        ],
    ],
};

const STUCK_PET: Plot = Plot {
    name: "stuck pet",
    cast: Cast::Children,
    choices: &[
        Choice {
            slots: &["pet", "stuck", "lure"],
            rows: &[
                &["cat", "at the top of a tall tree", "a bowl of milk"],
                &["parrot", "on the roof of the church", "a ripe banana"],
                &["goat", "on a high rock", "a bunch of carrots"],
                &["squirrel", "on a very thin branch", "a pile of nuts"],
                &["hen", "on top of the barn", "a cup of corn"],
                &["monkey", "at the top of the flag pole", "a bunch of grapes"],
            ],
        },
        Choice {
            slots: &["try1", "fail1", "try2", "fail2"],
            rows: &[
                &["fetched a ladder", "the ladder was too short"],
                &["threw up a rope", "the rope fell down again and landed on {his} head"],
                &["stood on a barrel", "the barrel rolled away"],
                &["climbed on {friend}'s shoulders", "they both fell down in the grass"],
                &["built a tower of boxes", "the tower wobbled and fell"],
                &["called and whistled", "the {pet} only blinked"],
                &["jumped as high as {he} could", "that was not very high"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{He} had a {pet} named {pet_name}. {One_day}, {pet_name} got stuck {stuck}.",
                "{He} lived with a small and very curious {pet} named {pet_name}. {One_day}, {pet_name} \
                 climbed too far, and sat {stuck}.",
                "{One_day}, {hero} could not find {his} {pet}, {pet_name}. Then {he} looked up. There sat \
                 {pet_name}, {stuck}!",
            ],
            &[
                "\"Come down, {pet_name}!\" called {hero}. But {pet_name} was afraid to move.",
                "{Pet_name} looked down, and then looked away. It was very high.",
                "\"Do not look down!\" cried {hero}. Of course, {pet_name} looked down.",
            ],
        ],
        &[
            &[
                "{His} friend {friend_full} came to help. First {hero} {try1}, but {fail1}.",
                "\"Let us think,\" said {his} friend {friend_full}. But {hero} was in a hurry. {He} {try1}, \
                 but {fail1}.",
                "\"Help!\" {he} called, and {his} friend {friend_full} came running. {Hero} {try1}. But \
                 {fail1}.",
            ],
            &["Then {he} {try2}, but {fail2}.", "Next {he} {try2}. But {fail2}."],
            &[
                "{Hero} sat down to think. \"What does {pet_name} like best in the whole world?\" asked \
                 {friend}.",
                "\"We must not push,\" said {friend}. \"We must make {pet_name} want to come down.\"",
                "{Hero} almost cried. \"Maybe {pet_name} is not stuck,\" said {friend}. \"Maybe {pet_name} \
                 is just not hungry yet.\"",
            ],
        ],
        &[
            &[
                "{Hero} ran home and came back with {lure}. {Pet_name} looked. {Pet_name} sniffed. Then \
                 {pet_name}, step by step, came all the way down.",
                "So {hero} brought {lure} and set it on the ground. In no time at all, {pet_name} was down.",
                "\"I know!\" cried {hero}. {He} fetched {lure}. Very slowly, {pet_name} began to climb down.",
            ],
            &[
                "{Hero} held {pet_name} close. \"You silly {pet},\" {he} said.",
                "Everyone cheered. {Pet_name} did not care. {Pet_name} was busy eating.",
                "\"So that was the trick,\" laughed {friend}.",
            ],
            &[
                "The next day, {pet_name} climbed up again. {Pet_name} had learned that it was a good way to \
                 get {lure}.",
                "From then on, {hero} always kept {lure} ready, just in case.",
                "Sometimes, a kind idea is stronger than a tall ladder.",
                "That night, {pet_name} slept on {hero}'s feet, safe and warm.",
            ],
        ],
    ],
};

const BERRIES: Plot = Plot {
    name: "too many berries",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["fruit", "tint", "where_fruit"],
        rows: &[
            &["blueberries", "blue", "at the edge of the woods"],
            &["cherries", "red", "in the old orchard"],
            &["strawberries", "red", "on the sunny hill"],
            &["blackberries", "purple", "behind the mill"],
            &["plums", "purple", "by the garden wall"],
            &["raspberries", "pink", "along the river"],
        ],
    }],
    paragraphs: &[
        &[&[
            "{One_day}, {his} {elder} gave {him} a basket. \"Please pick some {fruit} for a cake,\" {e_he} \
             said. \"And do not eat too many!\"",
            "{One_day}, {hero} was sent to pick {fruit} {where_fruit}. \"Bring me a full basket,\" said \
             {his} {elder}, \"and we will bake a cake.\"",
            "The {fruit} were ripe {where_fruit}. {One_day}, {hero} took a basket and promised {his} {elder} \
             to bring it back full.",
        ]],
        &[
            &[
                "{Hero} put [one|two] in the basket and one in {his} mouth. It was so sweet! \"Just one \
                 more,\" {he} said.",
                "The first of the {fruit} smelled so good that {he} had to taste it. \"Only one,\" {he} told \
                 {himself}. But one was not enough.",
                "{He} picked and picked. {Aside} \"I will try just one,\" said {hero}.",
            ],
            &[
                "One for the basket, two for {hero}. One for the basket, five for {hero}.",
                "{He} ate one more, and one more, and one more after that.",
                "\"And one for my nose, and one for each ear,\" {he} sang, and ate them all.",
            ],
            &[
                "The basket was still empty, but {hero} was full. {His} tummy began to [hurt|groan].",
                "When the sun went down, there were only three {fruit} in the basket, and {his} tummy was as \
                 round as a drum. Oh, how it hurt!",
                "Then {he} looked into the basket. There was nothing but a leaf. And {his} tummy said, \
                 \"Ooooh.\"",
            ],
        ],
        &[
            &[
                "{He} walked home slowly. \"There were no {fruit},\" {he} said. But {his} mouth was {tint}, \
                 and {his} {elder} saw it.",
                "At home, {he} held {his} {hands} behind {his} back. They were {tint} all over. \"I see,\" \
                 said {his} {elder}.",
                "\"A bird ate them,\" said {hero}. \"Was it a bird with a {tint} mouth?\" asked {his} \
                 {elder}.",
            ],
            &[
                "{Hero} [looked at {his} feet|turned as red as a beet]. \"I ate them all,\" {he} said. \"I \
                 am sorry.\"",
                "Then {hero} had to laugh, even though it hurt. \"It was me,\" {he} said. \"I am sorry.\"",
            ],
            &[
                "{His} {elder} made {him} some tea and put {him} to bed. The next day, they went to pick \
                 {fruit} together.",
                "{His} {elder} was not angry. \"Your tummy has told you enough,\" {e_he} said, and made \
                 {him} a cup of tea.",
            ],
            &[
                "This time, {hero} ate only one, and the cake was wonderful.",
                "And when the cake was ready at last, {hero} asked for a very, very small piece.",
                "Now {hero} knows that the best bite is often the last one that you leave.",
                "After that, {he} always filled the basket first.",
            ],
        ],
    ],
};

const MELTING: Plot = Plot {
    name: "snow or sand",
    cast: Cast::Anyone,
    choices: &[Choice {
        slots: &["work", "made", "parts", "end", "left", "reason"],
        rows: &[
            &[
                "One winter morning, the world was white",
                "a snowman",
                "gave it a carrot nose and {color} buttons",
                "the sun grew warm, and the snowman became smaller and smaller",
                "only a carrot and some buttons in a puddle",
                "The snow has gone up to the clouds, and it will come back next winter",
            ],
            &[
                "One hot day, the sea was far out",
                "a castle of sand",
                "gave it four towers and a/an {color} flag",
                "the water came back, and the waves took the towers one by one",
                "only a flag in the wet sand",
                "The sea has borrowed the sand, and tomorrow it will bring it back",
            ],
            &[
                "One icy day, the snow was high",
                "a house of snow",
                "gave it a round door and a/an {color} lamp",
                "the spring wind came, and the house began to drip",
                "only a lamp in the wet grass",
                "The snow is a river now, and some day it will be snow again",
            ],
            &[
                "One autumn day, the wind had blown all the leaves to the ground",
                "a king of leaves",
                "gave him a crown of twigs and a/an {color} scarf",
                "the wind came back, and it carried the leaves away",
                "only a scarf on the ground",
                "The leaves will turn into earth, and the earth will make new leaves",
            ],
            &[
                "One rainy day, the path was full of mud",
                "a dragon of mud",
                "gave it stones for teeth and a/an {color} ribbon",
                "a big rain came, and the dragon got softer and softer",
                "only a ribbon in a puddle",
                "Mud is only sleeping earth, and we can wake it up any time",
            ],
        ],
    }],
    paragraphs: &[
        &[&[
            "{Work}. {Hero} and {his} friend {friend_full} ran outside and made {made}.",
            "{Work}. \"Let us make {made}!\" {hero} said to {his} friend {friend_full}.",
            "{Work}. {Hero} called {his} friend {friend_full}. \"Do you know what we need?\" {he} asked. \
             \"We need {made}.\"",
        ]],
        &[
            &[
                "They worked until their {hands} were cold and their noses were red. They {parts}.",
                "It took [all morning|a long time]. At the end they {parts}.",
                "{Hero} made the bottom, {friend} made the top, and then they {parts}.",
            ],
            &[
                "\"It is the best in the whole world,\" said {friend}.",
                "\"Look how tall!\" said {hero}. {Friend} clapped {f_his} {hands}.",
                "They were so proud that they walked around it three times.",
            ],
            &["But the next day, {end}.", "But then {end}.", "It stood there for a while. Then {end}."],
            &["In the end, there was {left}.", "When they came back, they found {left}."],
        ],
        &[
            &[
                "{Friend} began to cry. \"It is gone,\" {f_he} said.",
                "\"All our work!\" said {friend}, and {f_he} hung {f_his} head.",
                "{Friend} was [very|so] sad. \"Why can it not stay?\" {f_he} asked.",
            ],
            &[
                "{Hero} put an arm around {friend}. \"{Reason},\" {he} said. \"My {elder} told me.\"",
                "\"My {elder} says that nothing is ever quite gone,\" said {hero}. \"{Reason}.\"",
                "{Hero} did not know what to say, so they went to ask {his} {elder}. \"{Reason},\" said \
                 {his} {elder}.",
            ],
            &[
                "So they [drew a picture of it|hung a picture of it on the wall], and they waited. And the \
                 next one was even bigger.",
                "{Friend} dried {f_his} eyes. \"Then next time,\" {f_he} said, \"we will make two.\"",
                "They kept what was left in a box, ready for the next time.",
                "And they found that making it had been the best part.",
            ],
        ],
    ],
};

const MOON: Plot = Plot {
    name: "moon in the pond",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["tool1", "fail1", "tool2", "fail2"],
            rows: &[
                &["a net", "the moon slipped through the holes"],
                &["a bucket", "the moon broke into a hundred pieces"],
                &["a long stick", "the moon only wobbled"],
                &["a spoon", "the moon was much too big for it"],
                &["a rope", "the moon would not hold on"],
                &["{his} hat", "all {he} got was a wet hat and one surprised fish"],
            ],
        },
        Choice {
            slots: &["water"],
            rows: &[&["the pond"], &["the lake"], &["the well"], &["the quiet river"], &["a big puddle"]],
        },
    ],
    paragraphs: &[
        &[
            &[
                "One clear night, {he} went out and looked into {water}. There was the moon, deep down in \
                 the water!",
                "One warm night, {hero} was walking home past {water}. {He} looked down and stopped. The \
                 moon had fallen in!",
                "One night, {hero} could not sleep, so {he} went out to {water}. Something round and white \
                 lay in the water. It was the moon.",
            ],
            &[
                "\"Oh no!\" cried {hero}. \"The moon will get cold.\"",
                "\"Poor moon,\" said {hero}. \"I must get you out.\"",
                "\"Do not worry, moon!\" {he} called. \"I will save you.\"",
            ],
        ],
        &[
            &[
                "{He} took {tool1} and tried to pull it out, but {fail1}.",
                "{He} ran to get {tool1}. But {fail1}.",
            ],
            &[
                "{His} friend {friend_full} came along. \"What are you doing?\" {f_he} asked. \"I am saving \
                 the moon,\" said {hero}.",
                "{His} friend {friend_full} heard the splashing and came to look. \"The moon fell in!\" \
                 {hero} told {f_him}.",
            ],
            &[
                "\"Then I will help you,\" said {friend}. So they tried with {tool2}, but {fail2}.",
                "Together they tried it with {tool2}. But {fail2}.",
                "{Friend} brought {tool2}. They tried again, but {fail2}.",
            ],
        ],
        &[
            &[
                "{Hero} pulled so hard that {he} fell over backward. {He} lay in the grass and looked up. \
                 There was the moon, high in the sky!",
                "Then {friend} slipped and sat down in the mud. {F_he} looked up and began to laugh. \
                 \"Look!\" {f_he} said. The moon was up in the sky.",
                "Then {his} {elder} came with a lamp. \"Look up, you two,\" {e_he} said. And there was the \
                 moon, safe in the sky.",
            ],
            &[
                "\"We did it!\" said {hero}. \"We put the moon back.\"",
                "\"It was only a picture in the water,\" said {friend}. \"Like a mirror.\"",
                "\"The water is a mirror for the moon,\" {hero} said slowly. \"It wanted to see how pretty \
                 it is.\"",
            ],
            &[
                "The moon said nothing, but it seemed to smile.",
                "They sat together for a long time, and looked at both moons.",
                "And all the way home, the moon walked along with them.",
                "Since then, {hero} says good night to two moons.",
            ],
        ],
    ],
};

const LETTER_BOAT: Plot = Plot {
    name: "letter boat",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["carrier", "sent", "travel"],
            rows: &[
                &[
                    "a paper boat",
                    "set it on the stream",
                    "The boat sailed past three bridges and under a sleeping cow",
                ],
                &[
                    "a green bottle",
                    "dropped it into the river",
                    "The bottle bobbed along past the mill and around the bend",
                ],
                &[
                    "a/an {color} balloon",
                    "let it go into the sky",
                    "The balloon flew over the hill and over the roofs",
                ],
                &[
                    "a small raft of twigs",
                    "pushed it out on the water",
                    "The raft drifted for two days and one night",
                ],
                &["a/an {color} kite", "cut the string", "The kite danced away over the treetops"],
            ],
        },
        Choice {
            slots: &["question", "reply"],
            rows: &[
                &[
                    "What do you see from your window",
                    "I see a hill with one tree on it, and I see your {color} roof",
                ],
                &["What is your favorite food", "My favorite food is {treat}"],
                &[
                    "Do you know a good joke",
                    "Why did the snail sit on the turtle? Because it wanted to go fast",
                ],
                &["Can you whistle", "I can whistle, and I can teach you"],
                &["Are you lonely, too", "Yes, but not since your letter came"],
                &["What are you afraid of", "I am afraid of thunder. It helps to sing"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{He} had no one to play with. {One_day}, {he} wrote a letter. \"{Question}?\" it said. \
                 \"Your friend, {hero}.\"",
                "{One_day}, {hero} wished for a friend. So {he} wrote on a piece of paper, \"Hello! \
                 {Question}? My name is {hero}.\"",
                "{One_day}, {hero} wanted to know who lived far away. {He} wrote a letter that said, \
                 \"{Question}? Please answer. {Hero}.\"",
            ],
            &["{He} put the letter on {carrier} and {sent}.", "{He} tied it to {carrier}. Then {he} {sent}."],
        ],
        &[
            &[
                "{Travel}. At last it stopped at the feet of {friend_intro}.",
                "{Travel}. There, {friend_intro} picked it up.",
                "{Travel}, until it was found by {friend_intro}.",
            ],
            &[
                "{Friend} read the letter twice. Nobody had ever written to {f_him} before.",
                "\"A letter! For me!\" cried {friend}. {F_he} was so happy that {f_he} read it to the \
                 [birds|ducks].",
                "{Friend} did not know any {hero}, but {f_he} liked the letter very much.",
            ],
            &[
                "Every day {hero} waited for an answer. \"Maybe it got lost,\" said {his} {elder}. \"Maybe \
                 not,\" said {hero}.",
                "{Hero} waited one day, two days, three days. {He} began to think that nobody would come.",
                "At home, {hero} looked out of the window from morning to night.",
            ],
        ],
        &[
            &[
                "Then, one morning, there was a knock at the door. \"Are you {hero}?\" asked a voice. \
                 \"{Reply}. I am {friend}.\"",
                "Then, at last, a letter came. \"Dear {hero},\" it said. \"{Reply}. May I come and see you? \
                 {Friend}.\" The next day, {friend} was there.",
            ],
            &[
                "{Hero} [laughed|smiled] and opened the door wide. They talked all day, and ate {treat}.",
                "Soon they were sitting side by side, eating {treat} and talking as if they had always been \
                 friends.",
            ],
            &[
                "\"I am glad that your letter found me,\" said {friend}. \"I am glad that you wanted to be \
                 found,\" said {hero}.",
                "And from that day on, they wrote to each other every week.",
                "You never know how far a few kind words can travel.",
                "They kept the letter on the wall, where both of them could see it.",
            ],
        ],
    ],
};

const COUNTING: Plot = Plot {
    name: "counting",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["things", "from1", "from2", "use"],
            rows: &[
                &["apples", "under the first tree", "under the second tree", "a pie"],
                &["shells", "on the sand", "between the rocks", "a necklace"],
                &["nuts", "under a bush", "in an old nest", "a cake"],
                &["pears", "on the low branches", "on the high branches", "a pot of jam"],
                &["feathers", "in the grass", "beside the pond", "a soft pillow"],
                &["mushrooms", "in the moss", "behind a log", "a soup"],
                &["flowers", "by the path", "by the wall", "a crown"],
                &["eggs", "in the straw", "behind the barn", "a big breakfast"],
            ],
        },
        Choice {
            slots: &["ask", "the_ask"],
            rows: &[
                &["an old turtle", "the turtle"],
                &["a small gray donkey", "the donkey"],
                &["a very thin goat", "the goat"],
                &["a tired goose", "the goose"],
                &["an old crow", "the crow"],
                &["a lame dog", "the dog"],
                &["a shy deer", "the deer"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{One_day}, {hero} and {his} friend {friend_full} went out to gather {things}. They wanted \
                 to make {use}.",
                "{One_day}, {his} {elder} asked {hero} and {his} friend {friend_full} to bring {things} for \
                 {use}.",
                "{Hero} liked to count. {One_day}, {he} went to look for {things} with {his} friend \
                 {friend_full}, to make {use}.",
            ],
            &[
                "\"We need {n12} {things},\" said {hero}. \"No more and no less.\"",
                "\"How many do we need?\" asked {friend}. \"We need {n12},\" said {hero}.",
            ],
        ],
        &[
            &[
                "{Hero} found {n1} {things} {from1}. {Friend} found {n2} {things} {from2}.",
                "{From1}, {hero} found {n1} {things}. {From2}, {friend} found {n2} more.",
            ],
            &[
                "They put them all in one basket and counted. {N1} and {n2} make {n12}. \"That is just \
                 enough!\" said {friend}.",
                "\"I have {n1},\" said {hero}. \"I have {n2},\" said {friend}. \"Then we have {n12}!\" they \
                 said together.",
            ],
            &[
                "On the way home, they met {ask}. \"I have not one of my own,\" {the_ask} said sadly. {Hero} \
                 looked at {friend}, and {friend} nodded. They gave away {n3}.",
                "Then they met {ask}, who looked very hungry for {things}. \"You can have {n3} of ours,\" \
                 said {hero}.",
            ],
            &[
                "Now there were only {n_left} left.",
                "{N12} take away {n3} is {n_left}. \"That is not enough for {use},\" said {friend}.",
                "\"We have {n_left} now,\" said {friend}. \"It will be a small one.\"",
            ],
        ],
        &[
            &[
                "With {n_left} {things} they made {use}. It was small, but it was very good.",
                "At home, they made {use} with {n_left} {things}. \"It is the right size for sharing,\" said \
                 {his} {elder}.",
                "They made {use} out of {n_left} {things}, and nobody could tell that it was {n3} short.",
            ],
            &[
                "The next morning, there was a full basket at the door. \"For my two kind friends,\" said a \
                 note.",
                "And the next day, {the_ask} came back and brought them {things} of a better kind.",
                "\"I count something else, too,\" said {hero}. \"We have one more friend than yesterday.\"",
                "{Hero} counted again before bed, and {he} was happy with {n_left}.",
            ],
        ],
    ],
};
