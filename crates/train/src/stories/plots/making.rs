//! Plots of making, growing and trading things.

use super::{Cast, Choice, Plot};

/// See [`super::PLOTS`].
pub const PLOTS: &[Plot] = &[SEED, BAKING, TRADE, LEMONADE, INVENTION];

const SEED: Plot = Plot {
    name: "the seed",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["seed", "plant", "wonder", "shared"],
            rows: &[
                &["a sunflower seed", "sunflower", "taller than the house", "gave seeds to all the birds"],
                &["a pumpkin seed", "pumpkin", "as big as a cart", "made soup for the whole street"],
                &[
                    "a bean",
                    "bean plant",
                    "so tall that it tickled the clouds",
                    "gave everyone a bowl of beans",
                ],
                &[
                    "an apple seed",
                    "little tree",
                    "full of white flowers, and later full of apples",
                    "gave an apple to everyone who passed by",
                ],
                &["a melon seed", "melon", "so heavy that nobody could lift it", "cut it into twenty pieces"],
                &[
                    "a tiny gray seed that nobody knew",
                    "flower",
                    "{color} in the day and silver at night",
                    "let everyone come and smell it",
                ],
                &[
                    "a strawberry seed",
                    "strawberry plant",
                    "full of sweet red berries",
                    "made jam for all the neighbors",
                ],
            ],
        },
        Choice {
            slots: &["care1", "care2"],
            rows: &[
                &["gave it water every morning"],
                &["pulled out the weeds"],
                &["sang to it in the evening"],
                &["built a tiny fence around it"],
                &["told it stories"],
                &["asked the snails to leave"],
                &["covered it when the nights were cold"],
            ],
        },
    ],
    paragraphs: &[
        &[&[
            "{One_day}, {hero} found {seed} in {his} pocket. {He} dug a little hole in the garden and put it \
             in.",
            "{One_day}, {his} {elder} gave {him} {seed}. \"Plant it,\" {e_he} said, \"and then wait.\"",
            "{One_day}, a bird dropped {seed} right in front of {hero}. {He} planted it beside the wall.",
        ]],
        &[
            &[
                "{Hero} {care1}, and {he} {care2}. But nothing happened.",
                "Every day {he} {care1}. {He} also {care2}. But the earth stayed brown.",
            ],
            &[
                "\"There is nothing there,\" said {his} friend {friend_full}. \"You are giving water to \
                 mud.\"",
                "{His} friend {friend_full} looked over the fence. \"Forget it,\" {f_he} said. \"It is not \
                 going to grow.\"",
                "\"Why do you not just buy one?\" asked {his} friend {friend_full}.",
            ],
            &[
                "\"Wait,\" said {hero}. \"It is only thinking.\"",
                "\"It needs time,\" said {hero}. \"So did I, when I was small.\"",
                "{Hero} was not so sure anymore. But {he} did not stop. Once more {he} {care1}.",
            ],
            &[
                "One week went by, and then another.",
                "The days went by. It rained, and the sun shone, and it rained again.",
            ],
        ],
        &[
            &[
                "Then, one morning, there was something small and green. \"You came!\" whispered {hero}.",
                "And then, one morning, a tiny green nose looked out of the earth.",
            ],
            &[
                "It grew and grew. By the end of the summer, the {plant} was {wonder}.",
                "Day by day it grew, and at last there stood a {plant}. It was {wonder}.",
            ],
            &[
                "{Hero} {shared}. {Friend} got the biggest share. \"I should have waited, too,\" {f_he} \
                 said.",
                "\"I was wrong,\" said {friend}. \"No,\" said {hero}, \"you were just too early.\" Then {he} \
                 {shared}.",
                "{Hero} {shared}, and {he} kept one seed for the next year.",
            ],
            &[
                "Good things grow where nobody can see them.",
                "The next spring, there were two holes in the garden, one for {hero} and one for {friend}.",
                "\"What did you do to make it grow?\" everyone asked. \"I waited,\" said {hero}.",
                "And {hero} learned that waiting is a kind of work, too.",
            ],
        ],
    ],
};

const BAKING: Plot = Plot {
    name: "the baking mistake",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["baked"],
            rows: &[
                &["a cake"],
                &["a pie"],
                &["a pudding"],
                &["a big loaf of bread"],
                &["a pot of jam"],
                &["a birthday cake"],
            ],
        },
        Choice {
            slots: &["slip", "effect", "repair"],
            rows: &[
                &[
                    "put in salt instead of sugar",
                    "It tasted like the sea",
                    "gave it to the goats, who like salt, and began again",
                ],
                &[
                    "put in ten spoons of pepper instead of one",
                    "Everyone had to sneeze",
                    "opened all the windows and began again",
                ],
                &["forgot the sugar", "It was as sour as a lemon", "poured honey over it until it was sweet"],
                &[
                    "made the fire too hot",
                    "It was as black as a boot",
                    "cut off the black part, and the inside was still soft",
                ],
                &[
                    "forgot to turn the egg timer",
                    "It was still as runny as soup",
                    "put it back on the fire and sang until it was done",
                ],
                &[
                    "dropped a button into the bowl",
                    "Something hard went crunch",
                    "ate it very carefully, and whoever found the button got a wish",
                ],
            ],
        },
        Choice {
            slots: &["why_slip"],
            rows: &[
                &["a butterfly flew through the kitchen, and {hero} looked up"],
                &["{friend} told a joke just then, and {hero} was laughing"],
                &["{hero} was thinking of something else"],
                &["{hero} did not look at the jar"],
                &["somebody knocked at the door at the wrong moment"],
            ],
        },
    ],
    paragraphs: &[
        &[&[
            "{One_day}, {hero} wanted to surprise {his} {elder}. \"I will make {baked},\" {he} told {his} \
             friend {friend_full}.",
            "{One_day}, {hero} and {his} friend {friend_full} wanted to make {baked}, all by themselves.",
            "{His} {elder} had worked hard all week. \"Let us make {baked} for {e_him},\" said {hero} to \
             {his} friend {friend_full}.",
        ]],
        &[
            &[
                "They washed their {hands} and put on aprons. {Friend} read from the book, and {hero} \
                 stirred.",
                "They took the big bowl. {Hero} poured, {friend} stirred, and there was flour on everything, \
                 even on the ceiling.",
                "{Friend} broke the eggs. {Hero} mixed and mixed until {his} arms were tired.",
            ],
            &[
                "But {why_slip}. So {he} {slip}.",
                "Then {why_slip}, and {he} {slip}. {He} did not even notice.",
            ],
            &[
                "When it was done, they took a bite. {Effect}!",
                "At last it was ready. \"You first,\" said {friend}. {Hero} tried it. {Effect}!",
                "It looked fine. But then they tried it. {Effect}!",
            ],
        ],
        &[
            &[
                "\"It is ruined,\" said {hero}, and {his} lip began to shake.",
                "They looked at each other. Then they began to laugh, and they could not stop.",
                "\"Oh dear,\" said {friend}. \"What did we do?\"",
            ],
            &[
                "Just then {hero}'s {elder} came in. {E_he} laughed. \"A mistake is only a lesson with flour \
                 on it,\" {e_he} said.",
                "\"I did the same when I was little,\" said {hero}'s {elder}, who stood in the door. \"We \
                 can fix it.\"",
            ],
            &["So they {repair}.", "Together they {repair}."],
            &[
                "In the end, {baked} stood on the table, and not a crumb was left over.",
                "It was not perfect, but it was the best that they had ever eaten.",
                "\"Delicious!\" said {his} {elder}, and {e_he} meant it.",
                "Now there is a note on the kitchen wall. It says, \"Taste first!\"",
            ],
        ],
    ],
};

const TRADE: Plot = Plot {
    name: "the trade",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["who1", "who2"],
            rows: &[
                &["farmer"],
                &["baker"],
                &["fisherman"],
                &["shepherd"],
                &["miller"],
                &["gardener"],
                &["tailor"],
                &["painter"],
                &["sailor"],
            ],
        },
        Choice {
            slots: &["item0", "use0", "item1", "use1", "item2", "use2"],
            rows: &[
                &["rope", "tie up the goat"],
                &["bucket", "carry water"],
                &["blanket", "keep the baby warm"],
                &["lantern", "find the way home"],
                &["basket", "carry plums"],
                &["ladder", "reach the highest pears"],
                &["broom", "sweep the step"],
                &["umbrella", "stay dry"],
                &["whistle", "call the dog"],
                &["needle", "mend a coat"],
                &["teapot", "make tea for guests"],
                &["spade", "dig up potatoes"],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{His} {elder} needed a/an {item2} to {use2}, but a/an {item2} costs money, and they had \
                 none. All that {hero} had was a/an {item0}.",
                "{One_day}, {his} {elder} sighed. \"If only we had a/an {item2},\" {e_he} said, \"to \
                 {use2}.\" {Hero} had only a/an {item0}.",
            ],
            &[
                "\"I will see what I can do,\" said {hero}, and {he} took the {item0} and set out.",
                "So {he} put the {item0} on {his} back and went down the road.",
            ],
        ],
        &[
            &[
                "First {he} met a {who1}. \"I need a/an {item0} to {use0},\" said the {who1}. \"Will you \
                 take a/an {item1} for it?\"",
                "Soon {he} met a {who1}, who looked at what {he} had. \"A/an {item0}! With that I could \
                 {use0}. I will give you a/an {item1} for it.\"",
            ],
            &[
                "{Hero} did not need a/an {item1}, but {he} saw how much the {who1} needed the {item0}. \
                 \"All right,\" {he} said.",
                "\"Gladly,\" said {hero}, and so {he} went on with the {item1}.",
            ],
            &[
                "Next {he} met a {who2}, who was looking for a/an {item1}. \"How else can I {use1}?\" asked \
                 the {who2}. \"All that I have is a/an {item2}.\"",
                "Then {he} came to a {who2}. \"A/an {item1}!\" cried the {who2}. \"Now I can {use1}. Please, \
                 take a/an {item2} for it.\"",
            ],
            &[
                "{Hero} could hardly believe {his} luck.",
                "{Hero} smiled from ear to ear. \"That is the very thing that I was looking for,\" {he} \
                 said.",
            ],
        ],
        &[
            &[
                "{He} ran all the way home with the {item2}. \"Where did you get it?\" asked {his} {elder}.",
                "In the evening, {he} put the {item2} on the table. {His} {elder} clapped {e_his} {hands}. \
                 \"Now I can {use2}!\" {e_he} said.",
            ],
            &[
                "\"It began with a/an {item0},\" said {hero}, \"and then it was a/an {item1}, and now it is \
                 a/an {item2}.\"",
                "{Hero} told the whole story, from the {item0} to the {item1}, and from the {item1} to the \
                 {item2}.",
            ],
            &[
                "Everyone had given something away, and everyone had got what they needed.",
                "\"You are a clever {kind},\" said {his} {elder}.",
                "And somewhere, a {who1} was happy, and a {who2} was happy, too.",
                "\"And the best of it is,\" said {hero}, \"that I have two new friends.\"",
            ],
        ],
    ],
};

const LEMONADE: Plot = Plot {
    name: "the stand",
    cast: Cast::Children,
    choices: &[
        Choice {
            slots: &["goods", "sign"],
            rows: &[
                &["lemonade", "Cold and sweet"],
                &["flowers", "Fresh today"],
                &["painted stones", "No two are the same"],
                &["cookies", "Baked with love"],
                &["paper hats", "One size fits all"],
                &["strawberries", "Picked this morning"],
            ],
        },
        Choice {
            slots: &["gift"],
            rows: &[
                &["a new hat"],
                &["a warm scarf"],
                &["a pair of glasses"],
                &["a singing bird clock"],
                &["a box of paints"],
                &["a rocking chair"],
            ],
        },
        Choice {
            slots: &["trouble", "trick"],
            rows: &[
                &["Nobody came", "sang a song as loud as {he} could, until people stopped to listen"],
                &["Everyone was in a hurry", "put two chairs in the shade, and soon people sat down to rest"],
                &[
                    "It was the wrong end of the street",
                    "put everything on a wagon and pulled it to the market",
                ],
                &["Nobody could see the little table", "painted a/an {color} sign as tall as a door"],
                &[
                    "A dog scared everyone away",
                    "made friends with the dog and gave it a/an {color} hat, and now everyone came to look",
                ],
            ],
        },
    ],
    paragraphs: &[
        &[
            &[
                "{He} wanted to buy {gift} for {his} {elder}, but {he} had only {n1} coins. {One_day}, {he} \
                 had an idea. {He} would sell {goods}.",
                "{One_day}, {hero} counted {his} coins. There were {n1}. For {gift}, {he} needed {n12}. \"I \
                 will sell {goods},\" {he} told {himself}.",
            ],
            &[
                "{He} set up a table and wrote on a sign, \"{sign}!\"",
                "{His} friend {friend_full} helped {him} to set up a table. On it was a sign. \"{sign}!\" it \
                 said.",
            ],
        ],
        &[
            &[
                "{Trouble}. {Hero} sat behind the table and waited.",
                "But there was a problem. {Trouble}. By noon, {he} had not sold a thing.",
            ],
            &[
                "\"Maybe it was a bad idea,\" said {hero}. Then {he} sat up. \"Or maybe it needs one more \
                 idea.\"",
                "\"You can go home, or you can think,\" {hero} told {himself}. {He} thought.",
            ],
            &["{He} {trick}.", "So {he} {trick}."],
            &[
                "\"One for me, please!\" \"And two for us!\" Soon everything was gone.",
                "One, two, three, more and more people came. In the evening, the table was empty, and the \
                 jar was full.",
            ],
        ],
        &[
            &[
                "{Hero} counted. {He} had earned {n2} more coins. {N1} and {n2} make {n12}. It was just \
                 enough!",
                "There were {n2} coins in the jar. With the {n1} from before, that made {n12}.",
            ],
            &[
                "{He} ran to the shop before it closed and bought {gift}.",
                "\"{Gift}, please,\" {he} said in the shop, and {he} put all {n12} coins on the counter.",
            ],
            &[
                "When {his} {elder} opened the present, {e_he} had tears in {e_his} eyes. \"For me?\" {e_he} \
                 asked.",
                "{His} {elder} did not say anything for a while. Then {e_he} held {hero} very tight.",
            ],
            &[
                "\"It is the finest present that I ever got,\" said {his} {elder}.",
                "Now {hero} had no coins at all, and {he} felt very rich.",
                "And the next day, {hero} started again, just for fun.",
            ],
        ],
    ],
};

const INVENTION: Plot = Plot {
    name: "the invention",
    cast: Cast::Anyone,
    choices: &[
        Choice {
            slots: &["bother", "machine", "wrong", "right"],
            rows: &[
                &[
                    "{his} {elder} had to sweep the floor every day",
                    "a sweeping machine",
                    "threw all the dust into the air",
                    "swept the floor in one minute and made a neat little pile",
                ],
                &[
                    "nobody could wake {friend} in the morning",
                    "a waking machine",
                    "poured a cup of water on {hero}",
                    "tickled {friend}'s feet with a feather until {f_he} laughed",
                ],
                &[
                    "the apples hung too high",
                    "an apple picking machine",
                    "threw the apples over the roof",
                    "set every apple softly into the basket",
                ],
                &[
                    "the birds had nothing to eat in winter",
                    "a feeding machine",
                    "fed everything to one very fat bird",
                    "gave every bird just a few seeds",
                ],
                &[
                    "it was too hot to think",
                    "a cooling machine",
                    "blew {friend}'s hat into the river",
                    "made a soft, cool wind",
                ],
                &[
                    "the way up the hill was too steep",
                    "a lifting machine",
                    "lifted {hero} up and would not let {him} down",
                    "carried everyone up the hill, and even sang while it worked",
                ],
            ],
        },
        Choice {
            slots: &["part1", "the_part1", "part2", "the_part2", "part3", "the_part3"],
            rows: &[
                &["an old wheel", "the wheel"],
                &["two spoons", "the spoons"],
                &["a bicycle bell", "the bell"],
                &["a bent umbrella", "the umbrella"],
                &["a long rope", "the rope"],
                &["three springs", "the springs"],
                &["a broken clock", "the clock"],
                &["a kettle", "the kettle"],
                &["a rubber boot", "the boot"],
                &["a handful of buttons", "the buttons"],
            ],
        },
        Choice {
            slots: &["fix"],
            rows: &[
                &["turned everything around"],
                &["took out {the_part2}"],
                &["put {the_part3} at the top"],
                &["added one small screw"],
                &["tied {the_part1} to {the_part3}"],
            ],
        },
    ],
    paragraphs: &[
        &[&[
            "{Hero} had a clever friend, {friend_full}. {One_day}, they talked about a problem. The problem \
             was that {bother}. \"Let us build {machine},\" said {hero}.",
            "{Hero} and {his} friend {friend_full} liked to build things. {One_day}, they saw that {bother}. \
             \"We need {machine}!\" said {hero}.",
        ]],
        &[
            &[
                "They took {part1}, {part2} and {part3}, and built {machine}.",
                "In the shed they found {part1}, {part2} and {part3}. By evening, it was {machine}.",
            ],
            &[
                "\"Ready?\" asked {friend}. {Hero} pulled the string. Rattle, rattle, bang! It {wrong}.",
                "{Hero} pressed the button. It hummed, it shook, and then it {wrong}.",
                "\"Three, two, one,\" counted {friend}. It started with a puff of smoke. Then it {wrong}.",
            ],
            &[
                "\"Well,\" said {friend}, \"it did do something.\"",
                "\"That,\" said {hero}, \"was not the plan.\"",
                "They laughed so hard that they had to sit down.",
            ],
            &[
                "\"We know now what does not work,\" said {hero}. \"That is half of it.\"",
                "{Hero} walked around it and looked at every part. \"Aha!\" {he} said.",
                "\"Ask it what is wrong,\" said {his} {elder}. {Hero} put {his} ear to it and listened.",
            ],
        ],
        &[
            &[
                "{He} {fix}. They tried again. And this time, it {right}!",
                "{Hero} {fix}, and {friend} held the lamp. Then they tried it once more. It {right}!",
            ],
            &[
                "\"It works!\" shouted {friend}, and they shook {hands}.",
                "\"Hooray!\" they cried. {His} {elder} came running to see it.",
                "Everyone came to see it, and some of them even bowed.",
            ],
            &[
                "\"What will you build next?\" asked {his} {elder}. \"A machine that washes dishes,\" said \
                 {hero} and {friend} together.",
                "They gave the machine a name. They called it {pet_name}.",
                "\"The first try teaches you,\" said {hero}, \"and the second try thanks you.\"",
                "And if it has not broken, it is working still.",
            ],
        ],
    ],
};
