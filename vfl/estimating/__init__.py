"""What a run will take, before it starts: rows, rounds, operations, bytes per link, seconds per phase.

``survey``       read the CSVs and prepare them in plain, as the roles will; what that takes is measured on the way
``calibration``  what this machine's arithmetic costs
``counting``     a kernel that counts what a party would compute on ciphertexts, and computes nothing
``account``      messages, operations and seconds as they add up
``alignment``, ``exact``, ``quadratic``, ``trees``    the same for each protocol
``rehearsal``    parts of a run that take no ciphertexts, played
``silo_survey``, ``silos``, ``averaging``    all of this where parties are made of silos
``estimate``     all of it together
"""
