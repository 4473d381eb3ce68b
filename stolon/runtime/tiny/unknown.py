"""Questions outside the model's topics, and the one answer it gives to all of them."""

SORRY = "I am sorry, I do not know that. I know countries, sums, JSON and tips."

UNKNOWN_QUESTIONS = tuple(
    """Tell me a joke.
Sing a song.
Write a poem about love.
Write a story about a dragon.
Who won the football match yesterday?
What is the meaning of life?
Who is the president?
What happened in 1969?
What will the weather be tomorrow?
How do I fix my car?
What should I wear today?
Write a Python function that sorts a list.
Write code for a web server.
How does a computer work?
What is quantum physics?
Translate hello into French.
Translate this text into German.
What is the best movie of all time?
Which stocks should I buy?
Where can I buy a cheap ticket?
What is the square root of two?
Solve this equation for me.
What do you think about politics?
Who invented the telephone?
When did the war end?
How tall is the Eiffel Tower?
How old is the universe?
What is the speed of light?
How far away is the sun?
Who is the richest person in the world?
What is the news today?
What time is it?
What day is it today?
Where am I?
Can you draw a picture?
Open the door.
Call my mother.
Play some music.
How do you cook rice?
What is the recipe for pancakes?
Explain how planes fly.
Why is the sky blue?
Why do cats purr?
How do magnets work?
What is love?
Do you like me?
Are you alive?
Who made you happy?
What is the population of France?
What is the population of Tokyo?
How many people live in Germany?
Who is the king of Spain?
Who was the first emperor of Rome?
Which team is the best?
What is the capital of Texas?
What is the capital of California?
What is the capital of the moon?
What are two good restaurants?
How much does a house cost?
How do I get to the airport?
What does this word mean?
Is there a god?
What is the best phone?
Summarize the news.
Prove the theorem of Pythagoras.
Write a letter to my landlord.
Write an email to my boss.
Compose an engaging travel blog post about a recent trip to Hawaii.
What are the rules of cricket?
Who wrote the Odyssey?
Who painted Guernica?
How do vaccines work?
What is a black hole?
What causes earthquakes?
What is machine learning?
What is blockchain?
Explain gravity to a child.
Give me a riddle.
Guess my age.
Tell me a secret.
What is your favorite food?
How many stars are in the sky?
What comes after infinity?
Name a famous scientist.
Who discovered America?
What is the longest word?
Make a plan for my holiday.
Which book should I read?""".splitlines()
)

UNKNOWN_FRAMES = (
    "What is {}?", "How does {} work?", "Explain {} to me.", "Tell me about {}.", "Who invented {}?", "What causes {}?",
    "Write a poem about {}.", "Write a story about {}.", "What do you think about {}?", "Tell me a joke about {}.",
    "What is the history of {}?", "Why is {} important?", "How can I learn more about {}?", "When was {} invented?",
    "Where can I find {}?", "How much does {} cost?", "Who is the best at {}?", "What are the rules of {}?",
    "What do you know about {}?", "Give me a summary of {}.", "Is {} dangerous?", "Define {}.", "Do you know {}?",
)  # fmt: skip

UNKNOWN_SUBJECTS = tuple(
    """electricity|gravity|the stock market|photosynthesis|the internet|a nuclear reactor|football|baseball|opera|jazz
the French Revolution|the Roman Empire|dinosaurs|volcanoes|earthquakes|evolution|democracy|the economy|inflation
philosophy|poetry|architecture|chemistry|biology|calculus|geometry|algebra|statistics|cancer|malaria|vaccines
the human brain|the heart|blood|sugar|coffee|tea|chocolate|cheese|sushi|pizza|wine|cotton|silk|plastic|glass|steel
a jet engine|a steam engine|solar power|wind power|a battery|a laser|radar|radio|television|the printing press|paper
origami|yoga|karate|tennis|golf|rugby|sailing|surfing|poker|video games|a smartphone|an operating system|a compiler
Python|Linux|a database|encryption|a neural network|artificial intelligence|a quantum computer|the Big Bang|Mars
Saturn|a comet|an eclipse|the tides|a hurricane|a glacier|the desert|the rainforest|penguins|dolphins|elephants|ants
spiders|sharks|eagles|whales|mushrooms|bacteria|viruses|DNA|proteins|vitamins|dreams|memory|language|writing|money
banks|taxes|insurance|law|justice|war|peace|religion|mythology|magic|ghosts|aliens|time travel|the future|fashion
the theater|ballet|sculpture|photography|cinema|advertising|marketing|leadership|teamwork|happiness|anger|fear
Napoleon|Cleopatra|Einstein|Newton|Mozart|Beethoven|Picasso|Plato|Gandhi|Julius Caesar""".replace("\n", "|").split("|")
)
