"""Advice and short essays, written for the corpus."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tip:
    """A piece of advice under two titles (an order and a noun), and the sentences that explain it."""

    title: str
    noun: str
    text: str


# topic, then per tip: title | noun | explanation
_TIP_TABLE = """
# staying healthy
Exercise regularly|Regular exercise|Move your body every day. Walking, cycling or swimming keeps your heart strong and lifts your mood.
Eat balanced meals|Balanced diet|Fill your plate with vegetables, fruit, whole grains and lean protein. Small good choices add up over time.
Sleep eight hours|Enough sleep|Go to bed at the same time each night. Good sleep helps your body repair itself and your mind stay sharp.
Drink enough water|Plenty of water|Keep a bottle near you and drink through the day. Water helps digestion, focus and energy.
Take short breaks|Short breaks|Stand up every hour and stretch. Short breaks lower stress and protect your back.
# learning a language
Practice every day|Daily practice|Spend a little time with the language daily. Short regular practice beats one long session a week.
Speak from day one|Early speaking|Talk out loud even if you make mistakes. Speaking builds confidence and shows you what to study next.
Listen to music|Songs|Songs repeat useful phrases and make them easy to remember. Sing along to train your ear.
Keep a word list|A word list|Write down new words and review them often. Use each word in a sentence of your own.
Find a partner|A partner|Meet someone who speaks the language. A partner keeps you motivated and corrects you kindly.
# saving money
Make a budget|A budget|Write down what you earn and what you spend. A clear budget shows where the money goes.
Cook at home|Home cooking|Meals at home cost less than meals out. Plan the week and shop with a list.
Avoid impulse buys|Patience|Wait one day before you buy something new. Often the wish goes away.
Set a goal|A clear goal|Choose an amount and a date. A goal makes it easier to say no to small expenses.
Compare prices|Price checks|Look at several shops before a big purchase. A few minutes can save a lot.
# writing an essay
Plan an outline|An outline|List your main points before you start. An outline keeps the essay clear and in order.
Start with a hook|A strong opening|Open with a question or a fact. A strong first line makes the reader curious.
Use clear examples|Good examples|Support each point with an example. Examples make ideas easy to follow.
Keep sentences short|Short sentences|Short sentences are easy to read. Cut words that add nothing.
Proofread twice|Proofreading|Read the text once for sense and once for spelling. Fresh eyes catch more errors.
# traveling abroad
Pack light|Light luggage|Take only what you need. A small bag makes every trip easier.
Learn basic phrases|Basic phrases|Know how to say hello and thank you. People are happy when you try.
Keep copies of papers|Copies of papers|Store copies of your passport and tickets. They help if something gets lost.
Try local food|Local food|Eat where local people eat. It is often cheaper and better.
Plan the first day|A first day plan|Know how to reach your hotel. A calm first day sets the tone for the trip.
# studying for exams
Start early|An early start|Begin weeks before the exam. Early work leaves time for review.
Test yourself|Practice tests|Answer practice questions without notes. Testing shows what you really know.
Make a schedule|A schedule|Give every topic a day. A schedule keeps you calm.
Teach a friend|Teaching others|Explain the topic to someone else. Teaching shows the gaps in your knowledge.
Rest well|Good rest|Sleep before the exam. A rested mind remembers more.
# growing a garden
Choose good soil|Good soil|Mix compost into the ground. Rich soil feeds the roots.
Water in the morning|Morning water|Morning water reaches the roots before the sun dries it. Leaves also stay healthier.
Give plants space|Space|Leave room between plants. Air and light keep them strong.
Pull weeds often|Weeding|Remove weeds while they are small. They take food and water from your plants.
Pick the right season|The right season|Plant each seed at its time of year. The packet tells you when.
# public speaking
Know your audience|Your audience|Think about who is listening. Choose words and examples they understand.
Practice out loud|Rehearsal|Say the talk several times. Practice makes the words come easily.
Speak slowly|A slow pace|Pause between ideas. Slow speech sounds calm and clear.
Make eye contact|Eye contact|Look at people as you talk. Eye contact keeps them interested.
Tell a story|A story|Open with a short story. Stories make people listen.
# sleeping better
Keep a routine|A routine|Go to bed and get up at the same hours. Your body learns when to rest.
Dim the lights|Low light|Turn down the lamps an hour before bed. Darkness tells your brain that night has come.
Avoid late coffee|No late coffee|Drink your last coffee early in the afternoon. It stays in the body for many hours.
Cool the room|A cool room|Open a window or lower the heating. Most people sleep best in a cool room.
Put the phone away|No screens|Leave your phone in another room. Messages and bright screens keep you awake.
# a job interview
Study the company|Research|Read about the company before you go. It shows that you care about the job.
Arrive on time|Punctuality|Leave home early and find the place calmly. Being on time makes a good first impression.
Prepare questions|Your questions|Write down what you want to know. Good questions show real interest.
Dress neatly|Neat clothes|Wear clean clothes that fit the job. You will feel more sure of yourself.
Say thank you|Thanks|Send a short note after the talk. It is polite and helps them remember you.
"""  # noqa: E501

# for topics that the table does not have
GENERAL_TIPS = (
    Tip(
        "Start small",
        "Small steps",
        "Begin with something easy. Small steps are simple to keep and soon become a habit.",
    ),
    Tip(
        "Ask for help",
        "Help from others",
        "Talk to someone who has done it before. Good advice saves time and mistakes.",
    ),
    Tip("Be patient", "Patience", "Give yourself time. Nobody is an expert on the first day."),
    Tip("Make a plan", "A plan", "Write down the steps before you start. A plan shows what to do next."),
    Tip("Enjoy it", "Joy", "Choose the parts that you like most. What is fun is easy to continue."),
)
GENERAL_TOPICS = (
    "playing chess", "baking bread", "riding a bike", "running a marathon", "learning to draw", "taking photos",
    "making friends", "raising a puppy", "writing a poem", "building a website", "learning to code", "fishing",
    "playing the guitar", "cleaning the house", "moving to a new city", "reading more", "working from home",
    "climbing a mountain", "keeping a diary", "giving a party", "buying a car", "skiing", "sailing", "juggling",
    "learning physics", "knitting", "camping", "being happy", "managing time", "finding a flat", "dancing",
)  # fmt: skip


def _tips() -> dict[str, tuple[Tip, ...]]:
    topics: dict[str, list[Tip]] = {}
    for line in _TIP_TABLE.strip().splitlines():
        if line.startswith("# "):
            topics[line[2:]] = []
        else:
            topics[next(reversed(topics))].append(Tip(*line.split("|")))
    return {topic: tuple(tips) for topic, tips in topics.items()}


TIPS = _tips()

ESSAYS = {
    "the ocean": "The ocean covers most of our planet. It gives us food, shapes the weather and is home to countless "
    "animals. We must keep it clean for the people who come after us.",
    "friendship": "Friendship makes life richer. A good friend listens, helps and tells the truth. To have a friend, "
    "we must first be one.",
    "books": "Books open doors to other worlds. They teach us, comfort us and make us think. A day with a good book is "
    "never wasted.",
    "music": "Music speaks to everyone. It can calm us, wake us up or bring back memories. Every culture has songs of "
    "its own.",
    "the moon": "The moon lights our nights and moves the tides. People have looked at it for thousands of years. Some "
    "have even walked on it.",
    "trees": "Trees clean the air and give us shade. Birds nest in them and children climb them. Planting a tree is a "
    "gift to the future.",
    "robots": "Robots help people with hard and boring work. They build cars, explore space and clean floors. We must "
    "use them wisely.",
    "rain": "Rain fills the rivers and feeds the fields. It sounds soft on the roof at night. Without rain there would "
    "be no life.",
    "cats": "Cats are quiet and curious. They sleep most of the day and hunt at night. A cat that trusts you is a "
    "good friend.",
    "bread": "Bread is one of our oldest foods. It needs only flour, water, salt and time. The smell of fresh bread "
    "makes a house a home.",
}
ESSAY_TITLES = {topic: f"On {topic[0].upper()}{topic[1:]}" for topic in ESSAYS}
