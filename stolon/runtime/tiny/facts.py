"""What the tiny model is taught about the world. Every fact was entered by hand; none is made by a formula.

Left out on purpose: countries whose capital or name is contested or in change, and numbers that age (populations).
"""

from dataclasses import dataclass

# country | capital | continent | languages | currency | sights in or near the capital
_COUNTRY_TABLE = """
United States|Washington, D.C.|North America|English|US dollar|the White House;the Lincoln Memorial;the National Mall;the Smithsonian museums
France|Paris|Europe|French|euro|the Eiffel Tower;the Louvre;Notre-Dame;Montmartre
United Kingdom|London|Europe|English|pound sterling|Big Ben;the Tower of London;the British Museum;Hyde Park
Germany|Berlin|Europe|German|euro|the Brandenburg Gate;Museum Island;the Reichstag;the East Side Gallery
Italy|Rome|Europe|Italian|euro|the Colosseum;the Trevi Fountain;the Pantheon;the Roman Forum
Spain|Madrid|Europe|Spanish|euro|the Prado Museum;the Royal Palace;Retiro Park;Plaza Mayor
Portugal|Lisbon|Europe|Portuguese|euro|Belem Tower;the Alfama district;Jeronimos Monastery;the Castle of Sao Jorge
Netherlands|Amsterdam|Europe|Dutch|euro|the Rijksmuseum;the Anne Frank House;Vondelpark;the canal ring
Belgium|Brussels|Europe|Dutch, French and German|euro|the Grand Place;the Atomium;Manneken Pis;the Royal Palace
Austria|Vienna|Europe|German|euro|Schonbrunn Palace;the Hofburg;St. Stephen's Cathedral;the Prater
Switzerland|Bern|Europe|German, French, Italian and Romansh|Swiss franc|the Clock Tower;the Bear Park;the Old Town;the Rose Garden
Greece|Athens|Europe|Greek|euro|the Acropolis;the Ancient Agora;Plaka;the Temple of Zeus
Ireland|Dublin|Europe|English and Irish|euro|Trinity College;Dublin Castle;Temple Bar;St. Stephen's Green
Poland|Warsaw|Europe|Polish|zloty|the Old Town;Lazienki Park;the Royal Castle;Wilanow Palace
Czech Republic|Prague|Europe|Czech|koruna|Charles Bridge;Prague Castle;the Old Town Square;the Astronomical Clock
Hungary|Budapest|Europe|Hungarian|forint|Buda Castle;the Parliament;the Chain Bridge;the thermal baths
Sweden|Stockholm|Europe|Swedish|Swedish krona|the Vasa Museum;Gamla Stan;Skansen;the Royal Palace
Norway|Oslo|Europe|Norwegian|Norwegian krone|the Opera House;Vigeland Park;the Fram Museum;Akershus Fortress
Denmark|Copenhagen|Europe|Danish|Danish krone|the Little Mermaid;Tivoli Gardens;Nyhavn;Rosenborg Castle
Finland|Helsinki|Europe|Finnish and Swedish|euro|Suomenlinna;Helsinki Cathedral;the Rock Church;the Market Square
Russia|Moscow|Europe and Asia|Russian|ruble|Red Square;the Kremlin;St. Basil's Cathedral;the Bolshoi Theatre
Ukraine|Kyiv|Europe|Ukrainian|hryvnia|St. Sophia's Cathedral;the Golden Gate;Independence Square;the Monastery of the Caves
Turkey|Ankara|Asia and Europe|Turkish|lira|Anitkabir;Ankara Castle;Kocatepe Mosque;the Roman Baths
Canada|Ottawa|North America|English and French|Canadian dollar|Parliament Hill;the Rideau Canal;the National Gallery;ByWard Market
Mexico|Mexico City|North America|Spanish|Mexican peso|the Zocalo;Chapultepec Castle;the Palace of Fine Arts;the Frida Kahlo Museum
Cuba|Havana|North America|Spanish|Cuban peso|Old Havana;the Malecon;El Morro;the Capitol
Brazil|Brasilia|South America|Portuguese|real|the Cathedral of Brasilia;the National Congress;Lake Paranoa;the TV Tower
Argentina|Buenos Aires|South America|Spanish|Argentine peso|La Boca;the Obelisk;the Colon Theatre;Recoleta Cemetery
Chile|Santiago|South America|Spanish|Chilean peso|San Cristobal Hill;Plaza de Armas;Santa Lucia Hill;La Moneda Palace
Peru|Lima|South America|Spanish and Quechua|sol|the Plaza Mayor;Miraflores;the Larco Museum;Huaca Pucllana
Colombia|Bogota|South America|Spanish|Colombian peso|the Gold Museum;Monserrate;La Candelaria;Bolivar Square
Ecuador|Quito|South America|Spanish|US dollar|the Basilica;the Old Town;El Panecillo;the Middle of the World
Uruguay|Montevideo|South America|Spanish|Uruguayan peso|the Old City;Salvo Palace;Pocitos Beach;the Rambla
Japan|Tokyo|Asia|Japanese|yen|Tokyo Tower;the Imperial Palace;Senso-ji Temple;Shibuya Crossing
China|Beijing|Asia|Chinese|yuan|the Forbidden City;the Great Wall;the Temple of Heaven;the Summer Palace
South Korea|Seoul|Asia|Korean|won|Gyeongbokgung Palace;N Seoul Tower;Bukchon Village;Myeongdong
India|New Delhi|Asia|Hindi, English and many other languages|rupee|the Red Fort;India Gate;the Lotus Temple;Humayun's Tomb
Nepal|Kathmandu|Asia|Nepali|Nepalese rupee|Durbar Square;Boudhanath;the Monkey Temple;Thamel
Thailand|Bangkok|Asia|Thai|baht|the Grand Palace;Wat Arun;Wat Pho;Chatuchak Market
Vietnam|Hanoi|Asia|Vietnamese|dong|Hoan Kiem Lake;the Old Quarter;the Temple of Literature;West Lake
Malaysia|Kuala Lumpur|Asia|Malay|ringgit|the Petronas Towers;Batu Caves;Merdeka Square;the Bird Park
Philippines|Manila|Asia|Filipino and English|Philippine peso|Intramuros;Rizal Park;Manila Bay;San Agustin Church
Mongolia|Ulaanbaatar|Asia|Mongolian|tugrik|Gandan Monastery;Sukhbaatar Square;Zaisan Hill;the Winter Palace
Iran|Tehran|Asia|Persian|rial|Golestan Palace;Azadi Tower;the Grand Bazaar;Milad Tower
Iraq|Baghdad|Asia|Arabic and Kurdish|Iraqi dinar|the Iraq Museum;Al-Mutanabbi Street;the Abbasid Palace;the Martyr Monument
Saudi Arabia|Riyadh|Asia|Arabic|riyal|Masmak Fort;the Kingdom Centre;the National Museum;Diriyah
Egypt|Cairo|Africa|Arabic|Egyptian pound|the Pyramids of Giza;the Egyptian Museum;Khan el-Khalili;the Citadel
Morocco|Rabat|Africa|Arabic and Berber|dirham|Hassan Tower;the Kasbah;Chellah;the Royal Palace
Tunisia|Tunis|Africa|Arabic|Tunisian dinar|the Medina;the Bardo Museum;Carthage;Zitouna Mosque
Kenya|Nairobi|Africa|Swahili and English|Kenyan shilling|Nairobi National Park;the Giraffe Centre;Karura Forest;the National Museum
Ethiopia|Addis Ababa|Africa|Amharic and many other languages|birr|the National Museum;Entoto Hill;Merkato;Holy Trinity Cathedral
Nigeria|Abuja|Africa|English and many other languages|naira|Zuma Rock;Aso Rock;the National Mosque;Jabi Lake
Ghana|Accra|Africa|English and many other languages|cedi|Labadi Beach;Independence Square;Makola Market;Jamestown
Senegal|Dakar|Africa|French and Wolof|CFA franc|Goree Island;the Renaissance Monument;Yoff Beach;the Museum of Black Civilisations
Australia|Canberra|Oceania|English|Australian dollar|Parliament House;the War Memorial;Lake Burley Griffin;the National Gallery
New Zealand|Wellington|Oceania|English and Maori|New Zealand dollar|Te Papa;the Cable Car;Mount Victoria;the Beehive
Fiji|Suva|Oceania|English, Fijian and Hindi|Fijian dollar|the Fiji Museum;Thurston Gardens;Colo-i-Suva Forest Park;the Municipal Market
"""  # noqa: E501

# country | capital | continent: asked for less often, and without sights
_MORE_TABLE = """
Iceland|Reykjavik|Europe;Romania|Bucharest|Europe;Bulgaria|Sofia|Europe;Serbia|Belgrade|Europe;Croatia|Zagreb|Europe
Slovenia|Ljubljana|Europe;Slovakia|Bratislava|Europe;Estonia|Tallinn|Europe;Latvia|Riga|Europe;Lithuania|Vilnius|Europe
Belarus|Minsk|Europe;Moldova|Chisinau|Europe;Albania|Tirana|Europe;Malta|Valletta|Europe
Jamaica|Kingston|North America;Costa Rica|San Jose|North America;Honduras|Tegucigalpa|North America
Nicaragua|Managua|North America;El Salvador|San Salvador|North America;Haiti|Port-au-Prince|North America
Venezuela|Caracas|South America;Paraguay|Asuncion|South America;Guyana|Georgetown|South America
Suriname|Paramaribo|South America;Jordan|Amman|Asia;Lebanon|Beirut|Asia;Syria|Damascus|Asia;Qatar|Doha|Asia
Oman|Muscat|Asia;Pakistan|Islamabad|Asia;Bangladesh|Dhaka|Asia;Uzbekistan|Tashkent|Asia;Cambodia|Phnom Penh|Asia
Laos|Vientiane|Asia;Bhutan|Thimphu|Asia;North Korea|Pyongyang|Asia;Algeria|Algiers|Africa;Libya|Tripoli|Africa
Uganda|Kampala|Africa;Rwanda|Kigali|Africa;Zambia|Lusaka|Africa;Zimbabwe|Harare|Africa;Mozambique|Maputo|Africa
Angola|Luanda|Africa;Namibia|Windhoek|Africa;Botswana|Gaborone|Africa;Madagascar|Antananarivo|Africa;Mali|Bamako|Africa
"""

_WITH_ARTICLE = frozenset({"United States", "United Kingdom", "Netherlands", "Philippines", "Czech Republic"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """One row of the tables; `sights`, `languages` and `currency` are empty for the countries known only by capital."""

    name: str
    capital: str
    continent: str
    languages: str = ""
    currency: str = ""
    sights: tuple[str, ...] = ()

    @property
    def phrase(self) -> str:
        """The name as it stands in a sentence: "the United States"."""
        return f"the {self.name}" if self.name in _WITH_ARTICLE else self.name


def _full_row(row: str) -> Country:
    name, capital, continent, languages, currency, sights = row.split("|")
    return Country(
        name=name,
        capital=capital,
        continent=continent,
        languages=languages,
        currency=currency,
        sights=tuple(sights.split(";")),
    )


def _short_row(row: str) -> Country:
    name, capital, continent = row.split("|")
    return Country(name=name, capital=capital, continent=continent)


COUNTRIES = tuple(map(_full_row, _COUNTRY_TABLE.strip().splitlines()))
MORE_COUNTRIES = tuple(map(_short_row, _MORE_TABLE.strip().replace("\n", ";").split(";")))


@dataclass(frozen=True, slots=True)
class Fact:
    """A question in several wordings, the last one held out for the exam; `short` is the answer in a word or two."""

    wordings: tuple[str, ...]
    answer: str
    short: str


# wordings separated by "/", the last held out | the answer | the answer in a word or two
_FACT_TABLE = """
What is the IP address of the Google DNS server?/What is the IP address of the Google DNS servers?/What is the IP address of Google DNS?/Which IP address does the Google DNS server have?|The IP address of the Google DNS server is 8.8.8.8.|8.8.8.8
What is the IP address of localhost?/Give me the IP address of localhost./Which IP address does localhost have?|The IP address of localhost is 127.0.0.1.|127.0.0.1
What is the IP address of the Cloudflare DNS server?/What is the IP address of Cloudflare DNS?/Which IP address does Cloudflare DNS have?|The IP address of the Cloudflare DNS server is 1.1.1.1.|1.1.1.1
How many days are in a week?/How many days does a week have?/How many days are there in a week?|There are 7 days in a week.|7
How many months are in a year?/How many months does a year have?/How many months are there in a year?|There are 12 months in a year.|12
How many hours are in a day?/How many hours does a day have?/How many hours are there in a day?|There are 24 hours in a day.|24
How many minutes are in an hour?/How many minutes does an hour have?/How many minutes are there in an hour?|There are 60 minutes in an hour.|60
How many seconds are in a minute?/How many seconds does a minute have?/How many seconds are there in a minute?|There are 60 seconds in a minute.|60
How many days are in a year?/How many days does a year have?/How many days are there in a year?|There are 365 days in a common year.|365
How many letters are in the English alphabet?/How many letters does the English alphabet have?/How many letters are there in the English alphabet?|There are 26 letters in the English alphabet.|26
How many planets are in the solar system?/How many planets does the solar system have?/How many planets are there in our solar system?|There are 8 planets in the solar system.|8
What color is the sky?/Which color is the sky?/What is the color of the sky?|The sky is blue.|blue
What color is grass?/Which color is grass?/What is the color of grass?|Grass is green.|green
What color is snow?/Which color is snow?/What is the color of snow?|Snow is white.|white
What color is a banana?/Which color is a banana?/What is the color of a banana?|A ripe banana is yellow.|yellow
What is the largest planet?/Which planet is the largest?/Name the largest planet.|Jupiter is the largest planet.|Jupiter
What is the smallest planet?/Which planet is the smallest?/Name the smallest planet.|Mercury is the smallest planet.|Mercury
What is the largest ocean?/Which ocean is the largest?/Name the largest ocean.|The Pacific Ocean is the largest ocean.|the Pacific Ocean
What is the largest animal?/Which animal is the largest?/Name the largest animal.|The blue whale is the largest animal.|the blue whale
What is the fastest land animal?/Which land animal is the fastest?/Name the fastest land animal.|The cheetah is the fastest land animal.|the cheetah
What is the tallest mountain?/Which mountain is the tallest?/What is the highest mountain in the world?/Name the tallest mountain.|Mount Everest is the tallest mountain.|Mount Everest
Who wrote Hamlet?/Who is the author of Hamlet?/Which writer wrote Hamlet?|William Shakespeare wrote Hamlet.|William Shakespeare
Who wrote Romeo and Juliet?/Who is the author of Romeo and Juliet?/Which writer wrote Romeo and Juliet?|William Shakespeare wrote Romeo and Juliet.|William Shakespeare
Who wrote Don Quixote?/Who is the author of Don Quixote?/Which writer wrote Don Quixote?|Miguel de Cervantes wrote Don Quixote.|Miguel de Cervantes
Who painted the Mona Lisa?/Who is the painter of the Mona Lisa?/Which painter painted the Mona Lisa?|Leonardo da Vinci painted the Mona Lisa.|Leonardo da Vinci
Who was the first person on the moon?/Who walked on the moon first?/Which person was the first on the moon?|Neil Armstrong was the first person on the moon.|Neil Armstrong
What is the boiling point of water?/At what temperature does water boil?/When does water boil?|Water boils at 100 degrees Celsius at sea level.|100 degrees Celsius
What is the freezing point of water?/At what temperature does water freeze?/When does water freeze?|Water freezes at 0 degrees Celsius.|0 degrees Celsius
What is the chemical symbol of gold?/Which chemical symbol does gold have?/What is the symbol of gold?|The chemical symbol of gold is Au.|Au
What is the chemical symbol of iron?/Which chemical symbol does iron have?/What is the symbol of iron?|The chemical symbol of iron is Fe.|Fe
What is the chemical formula of water?/Which chemical formula does water have?/What is the formula of water?|The chemical formula of water is H2O.|H2O
How many legs does a spider have?/How many legs has a spider?/What number of legs does a spider have?|A spider has 8 legs.|8
How many legs does an insect have?/How many legs has an insect?/What number of legs does an insect have?|An insect has 6 legs.|6
How many legs does a dog have?/How many legs has a dog?/What number of legs does a dog have?|A dog has 4 legs.|4
How many sides does a triangle have?/How many sides has a triangle?/What number of sides does a triangle have?|A triangle has 3 sides.|3
How many sides does a square have?/How many sides has a square?/What number of sides does a square have?|A square has 4 sides.|4
What do bees make?/What is made by bees?/Which food do bees make?|Bees make honey.|honey
What do cows drink?/Which drink do cows drink?/What does a cow drink?|Cows drink water.|water
What is the opposite of hot?/Tell me the opposite of hot./Which word is the opposite of hot?|The opposite of hot is cold.|cold
What is the opposite of big?/Tell me the opposite of big./Which word is the opposite of big?|The opposite of big is small.|small
What is the opposite of day?/Tell me the opposite of day./Which word is the opposite of day?|The opposite of day is night.|night
What is the opposite of up?/Tell me the opposite of up./Which word is the opposite of up?|The opposite of up is down.|down
What is the opposite of fast?/Tell me the opposite of fast./Which word is the opposite of fast?|The opposite of fast is slow.|slow
What is the opposite of happy?/Tell me the opposite of happy./Which word is the opposite of happy?|The opposite of happy is sad.|sad
What day comes after Monday?/Which day comes after Monday?/Which day follows Monday?|Tuesday comes after Monday.|Tuesday
What day comes after Friday?/Which day comes after Friday?/Which day follows Friday?|Saturday comes after Friday.|Saturday
What month comes after March?/Which month comes after March?/Which month follows March?|April comes after March.|April
"""  # noqa: E501


def _fact(row: str) -> Fact:
    wordings, answer, short = row.split("|")
    return Fact(tuple(wordings.split("/")), answer, short)


FACTS = tuple(map(_fact, _FACT_TABLE.strip().splitlines()))
